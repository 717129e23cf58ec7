//! The API server, behind `kubectl proxy`.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use ureq::Agent;
use ureq::http::{Method, Request};

/// The limit of one request. A busy machine answers late.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// The maximum size of a node's metrics; ureq's own limit is 10 MB.
const MAX_BYTES: u64 = 64 << 20;

const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const JSON: &str = "application/json";

#[derive(Debug, Clone)]
pub(crate) struct Api {
    agent: Agent,
    base: String,
}

impl Api {
    pub(crate) fn new(base: &str) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .build()
            .new_agent();
        Self { agent, base: base.trim_end_matches('/').to_owned() }
    }

    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::GET, path, JSON, "")
    }

    pub(crate) fn text(&self, path: &str) -> anyhow::Result<String> {
        self.ask(Method::GET, path, JSON, "")
    }

    pub(crate) fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.json(Method::POST, path, JSON, &object.to_string())
    }

    pub(crate) fn patch(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        self.json(Method::PATCH, path, STRATEGIC_PATCH, &patch.to_string())
    }

    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::DELETE, path, JSON, "")
    }

    /// The lines of a watch, until the server ends it.
    pub(crate) fn lines(
        &self,
        path: &str,
    ) -> anyhow::Result<impl Iterator<Item = std::io::Result<String>> + use<>> {
        let response = self.agent.get(format!("{}{path}", self.base)).call()?;
        if !response.status().is_success() {
            bail!("GET {path}: {}", response.status());
        }
        Ok(BufReader::new(response.into_body().into_reader()).lines())
    }

    fn json(&self, method: Method, path: &str, kind: &str, body: &str) -> anyhow::Result<Value> {
        let text = self.ask(method, path, kind, body)?;
        serde_json::from_str(&text).with_context(|| format!("{path}: the answer is not JSON"))
    }

    fn ask(&self, method: Method, path: &str, kind: &str, body: &str) -> anyhow::Result<String> {
        let what = format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("Content-Type", kind)
            .body(body.to_owned())?;
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(Some(REQUEST_LIMIT))
            .allow_non_standard_methods(true)
            .build();
        let mut response = self.agent.run(request).with_context(|| what.clone())?;
        let status = response.status();
        let text = response.body_mut().with_config().limit(MAX_BYTES).read_to_string()?;
        if !status.is_success() {
            bail!("{what}: {status}: {text}");
        }
        Ok(text)
    }
}
