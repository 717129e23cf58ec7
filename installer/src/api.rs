//! The API server, as a pod of the cluster sees it. The token is read again for each request, because
//! kubelet replaces it while the pod runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::{Method, Request};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// For one request. A step that waits for something asks again.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// Where the API server is, and for which node it is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// This node
    #[arg(long, env = "NODE_NAME")]
    node: String,

    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,

    #[arg(long, env = "KUBERNETES_SERVICE_HOST")]
    host: String,

    #[arg(long, env = "KUBERNETES_SERVICE_PORT", default_value_t = 443)]
    port: u16,

    /// The directory with token and ca.crt
    #[arg(long, default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    account: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Api {
    agent: Agent,
    base: String,
    token: PathBuf,
    namespace: String,
    node: String,
}

/// The API server's answer about an object.
#[derive(Debug)]
pub(crate) enum Answer {
    Object(Value),
    NotFound,
    /// Another client has changed it meanwhile.
    Conflict,
}

impl Place {
    pub(crate) fn open(&self) -> anyhow::Result<Api> {
        let roots = roots(&self.account.join("ca.crt"))?;
        // A second provider would be an error; there is none.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let agent = Agent::config_builder()
            .timeout_global(Some(REQUEST_LIMIT))
            .http_status_as_error(false)
            .https_only(true)
            .proxy(None)
            .max_redirects(0)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build()
            .new_agent();
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        Ok(Api {
            agent,
            base: format!("https://{host}:{}", self.port),
            token: self.account.join("token"),
            namespace: self.namespace.clone(),
            node: self.node.clone(),
        })
    }
}

fn roots(path: &Path) -> anyhow::Result<RootCerts> {
    let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(it)) => Some(Ok(it)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    let certificates: Vec<_> =
        certificates.collect::<Result<_, _>>().with_context(|| path.display().to_string())?;
    anyhow::ensure!(!certificates.is_empty(), "{} has no certificate", path.display());
    Ok(certificates.into())
}

impl Api {
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    pub(crate) fn lease(&self, name: &str) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/{name}", self.namespace)
    }

    pub(crate) fn daemonset(&self, name: &str) -> String {
        format!("/apis/apps/v1/namespaces/{}/daemonsets/{name}", self.namespace)
    }

    pub(crate) fn has_node(&self, name: &str) -> anyhow::Result<bool> {
        Ok(!matches!(self.get(&format!("/api/v1/nodes/{name}"))?, Answer::NotFound))
    }

    /// None removes the label.
    pub(crate) fn label(&self, label: &str, value: Option<&str>) -> anyhow::Result<()> {
        let path = format!("/api/v1/nodes/{}", self.node);
        let patch = json!({ "metadata": { "labels": { label: value } } });
        match self.ask(Method::PATCH, &path, MERGE_PATCH, &patch.to_string())? {
            Answer::Object(_) => Ok(()),
            Answer::NotFound => bail!("there is no node {}", self.node),
            Answer::Conflict => bail!("the node {} changes too often", self.node),
        }
    }

    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.ask(Method::GET, path, JSON, "")
    }

    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.ask(Method::DELETE, path, JSON, "")
    }

    /// Replaces an object that has a `resourceVersion`, and only if it still has that version.
    pub(crate) fn replace(&self, path: &str, object: &Value) -> anyhow::Result<Answer> {
        self.ask(Method::PUT, path, JSON, &object.to_string())
    }

    fn ask(&self, method: Method, path: &str, kind: &str, body: &str) -> anyhow::Result<Answer> {
        let what = format!("{method} {}{path}", self.base);
        let token = std::fs::read_to_string(&self.token)
            .with_context(|| self.token.display().to_string())?;
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", token.trim()))
            .header("accept", JSON)
            .header("content-type", kind)
            .body(body.to_owned())
            .with_context(|| what.clone())?;
        let mut response = self.agent.run(request).with_context(|| what.clone())?;
        let status = response.status();
        let text = response.body_mut().read_to_string().with_context(|| what.clone())?;
        match status.as_u16() {
            200..=202 => {
                Ok(Answer::Object(serde_json::from_str(&text).with_context(|| what.clone())?))
            }
            404 => Ok(Answer::NotFound),
            409 => Ok(Answer::Conflict),
            _ => bail!("{what}: {status}: {}", message(&text)),
        }
    }
}

/// The message of a `Status`, the API server's answer if it refuses.
fn message(text: &str) -> String {
    let status: Option<Value> = serde_json::from_str(text).ok();
    let said = status.as_ref().and_then(|it| it["message"].as_str()).unwrap_or(text);
    said.chars().take(500).collect()
}
