//! The whole of it, over a store in memory, as requests meet it: through the router.

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

use super::*;
use crate::api::kinds::KindTable;
use crate::apiserver::admission::Plugin;
use crate::apiserver::admission::certificate_requester::CertificateRequester;
use crate::apiserver::bootstrap::{self, BootstrapConfig};
use crate::apiserver::nodes::{Body as NodeBody, DialError, NodeDialer};
use crate::apiserver::{ApiServer, ApiServerConfig, Limits, Registry, RegistryConfig, strategy};
use crate::base::clock::{Clock, FakeClock};
use crate::base::rng::Rng;
use crate::base::shutdown::Shutdown;
use crate::link::identity::ServiceAccountKey;
use crate::store::memory::MemoryStore;

struct NoNodes;

#[async_trait]
impl NodeDialer for NoNodes {
    async fn request(
        &self,
        node: &str,
        _: Request<NodeBody>,
    ) -> Result<http::Response<NodeBody>, DialError> {
        Err(DialError::NoRoute(node.to_owned()))
    }
}

/// A server on an empty store, or on one that was bootstrapped.
pub(super) struct Cluster {
    pub registry: Arc<Registry>,
    pub clock: Arc<FakeClock>,
    pub config: AuthConfig,
    pub auth: Arc<Auth>,
    router: axum::Router,
    shutdown: Shutdown,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(super) fn user(name: &str, groups: &[&str]) -> UserInfo {
    let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    groups.push("system:authenticated".to_owned());
    UserInfo { name: name.to_owned(), groups, ..UserInfo::default() }
}

pub(super) fn node(name: &str) -> UserInfo {
    user(&format!("system:node:{name}"), &["system:nodes"])
}

pub(super) fn admin() -> UserInfo {
    user("admin", &["system:masters"])
}

pub(super) const AUDIENCE: &str = "https://kubernetes.default.svc";

impl Cluster {
    pub async fn empty() -> Self {
        let clock = FakeClock::at("2026-01-01T00:00:00Z".parse().expect("a time"));
        let shared: crate::base::clock::SharedClock = clock.clone();
        let registry = Registry::new(RegistryConfig {
            store: Arc::new(MemoryStore::new()),
            kinds: KindTable::builtin(),
            strategies: strategy::strategies(),
            clock: shared.clone(),
            rng: Rng::seeded(1),
        });
        let config = AuthConfig {
            registry: registry.clone(),
            key: ServiceAccountKey::ephemeral().expect("a key"),
            issuer: AUDIENCE.to_owned(),
            audiences: vec![AUDIENCE.to_owned(), "coracle".to_owned()],
            clock: shared,
        };
        let shutdown = Shutdown::new();
        let auth = Auth::start(config.clone(), shutdown.clone()).await.expect("started");
        let server = ApiServer::new(ApiServerConfig {
            registry: registry.clone(),
            authenticator: auth.authenticator.clone(),
            authorizer: auth.authorizer.clone(),
            admission: {
                let mut all: Vec<Arc<dyn Plugin>> = vec![Arc::new(CertificateRequester)];
                all.extend(auth.admission.iter().cloned());
                all
            },
            answers: auth.answers.clone(),
            nodes: Arc::new(NoNodes),
            beside: Vec::new(),
            aggregator: None,
            audit: None,
            limits: Limits::default(),
        });
        server.set_ready();
        let (router, auth) = (server.router(), Arc::new(auth));
        Self { registry, clock, config, auth, router, shutdown }
    }

    /// With what the first start creates, and the rules of the aggregated roles as their
    /// controller writes them.
    pub async fn bootstrapped() -> Self {
        let cluster = Self::empty().await;
        let config = BootstrapConfig {
            service_ip: "10.43.0.1".parse().expect("an address"),
            dns_ip: "10.43.0.10".parse().expect("an address"),
            virtual_address: "198.18.0.1:6443".parse().expect("an address"),
            server_url: "https://127.0.0.1:6443".to_owned(),
            ca_pem: "CA".to_owned(),
            front_proxy_ca_pem: "PROXY".to_owned(),
        };
        bootstrap::reconcile(&cluster.registry, &config).await.expect("bootstrapped");
        let roles = ("rbac.authorization.k8s.io", "clusterroles");
        let mut rules: Vec<Value> = Vec::new();
        for name in ["view", "edit", "admin"] {
            let part = format!("system:aggregate-to-{name}");
            let part = cluster.registry.get(roles, "", &part).await.expect("read").expect("there");
            rules.extend(part["rules"].as_array().cloned().expect("rules"));
            let role = cluster.registry.get(roles, "", name).await.expect("read");
            let mut role = role.expect("bootstrapped");
            role["rules"] = json!(rules);
            cluster.registry.update(roles, strategy::Part::Main, role).await.expect("aggregated");
        }
        // A refusal waits for the tables: from here on they know what was bootstrapped.
        assert_eq!(cluster.get(Who::User(user("nobody", &[])), "/metrics").await, 403);
        cluster
    }

    /// Creates an object past authorization and admission.
    pub async fn put(&self, object: Value) -> Value {
        let catalog = self.registry.catalog();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = catalog.table().of(&text(&object["apiVersion"]), &text(&object["kind"]));
        let kind = kind.expect("a built-in kind").clone();
        let namespace = text(&object["metadata"]["namespace"]);
        let of = (kind.group.as_ref(), kind.plural.as_ref());
        self.registry.create(of, &namespace, object).await.expect("created")
    }

    pub async fn account(&self, namespace: &str, name: &str) -> Value {
        self.put(json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace}}))
            .await
    }

    /// A pod on a node, as the account `default`, that mounts the secret `NAME-secret`.
    pub async fn pod(&self, name: &str, on: &str) -> Value {
        let secret = format!("{name}-secret");
        self.put(json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": secret, "namespace": "default"}}))
            .await;
        self.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "nodeName": on, "serviceAccountName": "default",
                "containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "s", "secret": {"secretName": secret}}],
            },
        }))
        .await
    }

    /// Binds a role of the cluster, in a namespace or everywhere (`""`).
    pub async fn bind(&self, role: &str, namespace: &str, subject: Value) -> Value {
        let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
        let group = "rbac.authorization.k8s.io";
        let mut binding = json!({
            "apiVersion": format!("{group}/v1"), "kind": kind,
            "metadata": {"generateName": "bound-"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [subject],
        });
        if !namespace.is_empty() {
            binding["metadata"]["namespace"] = json!(namespace);
        }
        self.put(binding).await
    }

    /// Sends a request; answers the code and the body.
    pub async fn send(
        &self,
        who: Who<'_>,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (u16, Value) {
        let patch = method == Method::PATCH;
        let mut request = Request::builder().method(method).uri(path);
        if let Who::Token(token) = &who {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let media = if patch { "application/merge-patch+json" } else { "application/json" };
        request = request.header("Content-Type", media);
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let mut request = request.body(Body::from(bytes)).expect("a request");
        match who {
            Who::User(user) => {
                request.extensions_mut().insert(user);
            }
            Who::Certificate(der) => {
                let credentials = Credentials { certificate: Some(der), bearer: None };
                request.extensions_mut().insert(credentials);
            }
            Who::Nobody | Who::Token(_) => {}
        }
        let response = self.router.clone().oneshot(request).await.expect("an answer");
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn get(&self, who: Who<'_>, path: &str) -> u16 {
        self.send(who, Method::GET, path, &Value::Null).await.0
    }

    /// Asks for a token of an account in `default`.
    pub async fn token(&self, account: &str, spec: &Value) -> (u16, Value) {
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": spec});
        self.send(Who::User(admin()), Method::POST, &path, &request).await
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }
}

/// Who sends a request.
#[derive(Clone)]
pub(super) enum Who<'a> {
    Nobody,
    User(UserInfo),
    Token(&'a str),
    Certificate(Vec<u8>),
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

#[tokio::test]
async fn who_is_nobody_may_read_the_version_and_nothing_of_the_cluster() {
    let cluster = Cluster::bootstrapped().await;
    let (code, body) = cluster.send(Who::Nobody, Method::GET, PODS, &Value::Null).await;
    assert_eq!(code, 403, "{body}");
    assert_eq!(
        body["message"],
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \
         \"\" in the namespace \"default\""
    );
    assert_eq!(cluster.get(Who::Nobody, "/version").await, 200);
    assert_eq!(cluster.get(Who::Nobody, "/healthz").await, 200);
    assert_eq!(cluster.get(Who::Nobody, "/apis").await, 403);
    let (code, body) =
        cluster.send(Who::Token("nonsense"), Method::GET, "/version", &Value::Null).await;
    assert_eq!((code, &body["message"]), (401, &json!("Unauthorized")));
}

#[tokio::test]
async fn an_account_bound_to_view_lists_pods_but_not_secrets() {
    let cluster = Cluster::bootstrapped().await;
    cluster.account("default", "reader").await;
    let (code, answer) = cluster.token("reader", &json!({})).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().expect("a token").to_owned();
    let reader = || Who::Token(&token);
    assert_eq!(cluster.get(reader(), PODS).await, 403, "nothing is bound yet");
    let subject = json!({"kind": "ServiceAccount", "name": "reader", "namespace": "default"});
    let binding = cluster.bind("view", "default", subject).await;
    assert_eq!(cluster.get(reader(), PODS).await, 200);
    assert_eq!(cluster.get(reader(), SECRETS).await, 403);
    assert_eq!(cluster.get(reader(), "/api/v1/namespaces/kube-system/pods").await, 403);
    assert_eq!(cluster.get(reader(), "/api/v1/pods").await, 403);
    assert_eq!(cluster.get(reader(), "/apis/apps/v1").await, 200, "discovery is for everybody");
    let (code, _) = cluster.send(reader(), Method::POST, PODS, &json!({})).await;
    assert_eq!(code, 403);
    let name = binding["metadata"]["name"].as_str().expect("a name");
    let of = ("rbac.authorization.k8s.io", "rolebindings");
    assert!(cluster.registry.delete(of, "default", name).await.expect("deleted"));
    // What was allowed is taken back as soon as the table hears of it.
    for _ in 0..100 {
        if cluster.get(reader(), PODS).await == 403 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a binding that is gone still allows");
}

#[tokio::test]
async fn a_node_reads_the_secrets_of_its_pods_and_no_others() {
    let cluster = Cluster::bootstrapped().await;
    cluster.pod("mine", "a").await;
    cluster.pod("theirs", "b").await;
    let a = || Who::User(node("a"));
    let (mine, theirs) = (format!("{SECRETS}/mine-secret"), format!("{SECRETS}/theirs-secret"));
    assert_eq!(cluster.get(a(), &mine).await, 200);
    let (code, body) = cluster.send(a(), Method::GET, &theirs, &Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        body["message"],
        "secrets \"theirs-secret\" is forbidden: User \"system:node:a\" cannot get resource \
         \"secrets\" in API group \"\" in the namespace \"default\": no relationship found between \
         node 'a' and this object"
    );
    assert_eq!(cluster.get(a(), SECRETS).await, 403);
    assert_eq!(cluster.get(a(), &format!("{PODS}/mine")).await, 200);
    assert_eq!(cluster.get(a(), &format!("{PODS}/theirs")).await, 403);
    assert_eq!(cluster.get(a(), "/api/v1/pods?fieldSelector=spec.nodeName%3Da").await, 200);
    assert_eq!(cluster.get(a(), "/api/v1/pods?fieldSelector=spec.nodeName%3Db").await, 403);
    assert_eq!(cluster.get(a(), "/api/v1/pods").await, 403);
    let hidden = "/api/v1/pods?fieldSelector=metadata.name!%3Dx%5C,spec.nodeName%3Da";
    assert_eq!(cluster.get(a(), hidden).await, 403, "an escaped comma is no other term");
}

#[tokio::test]
async fn a_pod_that_comes_to_a_node_is_known_with_the_first_request_for_it() {
    let cluster = Cluster::bootstrapped().await;
    for at in 0..20 {
        let name = format!("p{at}");
        cluster.pod(&name, "a").await;
        let path = format!("{SECRETS}/{name}-secret");
        assert_eq!(cluster.get(Who::User(node("a")), &path).await, 200, "{path}");
    }
}

#[tokio::test]
async fn verifiers_find_the_issuer_and_its_keys() {
    let cluster = Cluster::bootstrapped().await;
    let path = "/.well-known/openid-configuration";
    assert_eq!(cluster.get(Who::Nobody, path).await, 403);
    let account = user("system:serviceaccount:default:x", &["system:serviceaccounts"]);
    let (code, body) =
        cluster.send(Who::User(account.clone()), Method::GET, path, &Value::Null).await;
    assert_eq!((code, &body["issuer"]), (200, &json!(AUDIENCE)));
    let keys = "/openid/v1/jwks";
    let (code, body) = cluster.send(Who::User(account), Method::GET, keys, &Value::Null).await;
    assert_eq!((code, &body["keys"][0]["kid"]), (200, &json!(cluster.config.key.id())));
}

#[tokio::test]
async fn a_server_without_roles_lets_masters_in_and_learns_the_roles_as_they_come() {
    let cluster = Cluster::empty().await;
    assert_eq!(cluster.get(Who::User(admin()), PODS).await, 200);
    let alice = user("alice", &["dev"]);
    assert_eq!(cluster.get(Who::User(alice.clone()), "/api/v1/nodes").await, 403);
    cluster.bind("nodes-reader", "", json!({"kind": "Group", "name": "dev"})).await;
    let (code, body) =
        cluster.send(Who::User(alice.clone()), Method::GET, "/api/v1/nodes", &Value::Null).await;
    assert_eq!(code, 403);
    let message = body["message"].as_str().expect("a message");
    let words = "RBAC: clusterrole.rbac.authorization.k8s.io \"nodes-reader\" not found";
    assert!(message.ends_with(words), "{message}");
    cluster
        .put(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "nodes-reader"},
            "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["nodes"]}]}))
        .await;
    assert_eq!(cluster.get(Who::User(alice), "/api/v1/nodes").await, 200);
}
