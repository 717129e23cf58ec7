//! Explores a model to its last state, and reports the result.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Path};

/// Explores it to its end. Panics unless exactly these invariants are violated somewhere.
pub(crate) fn trips<M>(what: &str, model: impl Fn() -> M, expected: &[&'static str])
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let since = Instant::now();
    let checker = model().checker().spawn_bfs().join();
    // No bound on states, depth or time was set: it is done when no state is left to visit, or when
    // every invariant is already violated.
    assert!(checker.is_done(), "{what}: states were left out");
    let tripped: BTreeSet<&str> = checker.discoveries().into_keys().collect();
    println!(
        "{what}: {} states, {} steps between them, {} ms; trips {tripped:?}",
        checker.unique_state_count(),
        checker.state_count(),
        since.elapsed().as_millis(),
    );
    let expected: BTreeSet<&str> = expected.iter().copied().collect();
    for invariant in tripped.difference(&expected) {
        print_shortest(model(), invariant);
    }
    assert_eq!(tripped, expected, "{what}");
}

/// The same, but all invariants must hold.
pub(crate) fn holds<M>(what: &str, model: impl Fn() -> M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    trips(what, model, &[]);
}

/// A complete search keeps the last path that violates an invariant; this is the first.
fn print_shortest<M>(model: M, invariant: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let first = HasDiscoveries::AnyOf([invariant].into());
    let checker = model.checker().finish_when(first).spawn_bfs().join();
    println!("{invariant}:");
    for (state, action) in checker.discovery(invariant).into_iter().flat_map(Path::into_vec) {
        println!("  {state:?}\n    {action:?}");
    }
}
