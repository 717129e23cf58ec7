use super::super::finding::Finding;
use super::super::fix::Fix;
use super::super::node::Node;
use crate::node::lift::Left;

const MOST_SHOWN: usize = 5;

pub(super) fn check(node: &Node) -> Vec<Finding> {
    node.ours.lifted.iter().map(one).collect()
}

fn one(left: &Left) -> Finding {
    let what = match left.threads.len() {
        1 => "a killed lifter of frostlock's left 1 thread lifted".to_owned(),
        many => format!("a killed lifter of frostlock's left {many} threads lifted"),
    };
    let shown: Vec<String> =
        left.threads.iter().take(MOST_SHOWN).map(ToString::to_string).collect();
    let more = if left.threads.len() > MOST_SHOWN { " and others" } else { "" };
    Finding::error(what)
        .seen(&left.note, format!("threads {}{more}", shown.join(", ")))
        .so("they run before every fair thread, and no CPU quota holds them: where one spins on \
             each CPU, 5 % is left for everything else")
        .remedy("frostctl doctor --fix puts them back, and so does frostlock's next operation")
        .fix(Fix::PutBack(left.note.clone()))
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Severity;
    use super::*;

    #[test]
    fn what_is_left_lifted_is_an_error_that_can_be_mended() {
        let note = "/run/frostlock/lifts/123-456";
        for (count, what, seen) in [
            (1, "left 1 thread lifted", "threads 1"),
            (2, "left 2 threads lifted", "threads 1, 2"),
            (7, "left 7 threads lifted", "threads 1, 2, 3, 4, 5 and others"),
        ] {
            let finding = one(&Left { note: note.into(), threads: (1..=count).collect() });
            assert!(finding.what.ends_with(what), "{finding:?}");
            assert_eq!(finding.evidence[0].content, seen);
            assert_eq!(finding.severity, Severity::Error);
            let fix = finding.fix.unwrap().to_string();
            assert_eq!(fix, format!("put back the threads of {note}"));
        }
    }
}
