//! RBAC: roles and bindings in memory, found by who asks.
//!
//! Bindings are indexed by namespace (`""`: those of the cluster) and by the name of the user or
//! group that they name, so a decision costs a lookup for the user and one for each group, however
//! many bindings there are. A role is looked up by name when a rule of it is asked for: a role
//! that comes, changes or goes is one entry of one map.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::Deserialize;

use super::rule::Rule;
use crate::apiserver::auth::mirror::Table;
use crate::apiserver::auth::{Attributes, UserInfo};
use crate::apiserver::filter::{name_of, namespace_of};
use crate::store::Entry;

/// What a service account is called as a user.
pub const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Where a role is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Default)]
pub enum RoleKind {
    /// In the namespace of its binding.
    #[default]
    Role,
    ClusterRole,
}

impl RoleKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Role => "Role",
            Self::ClusterRole => "ClusterRole",
        }
    }

    /// The plural under which such roles are served.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Role => "roles",
            Self::ClusterRole => "clusterroles",
        }
    }
}

/// The role that a binding gives.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RoleRef {
    pub kind: RoleKind,
    pub name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct StoredSubject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct StoredRole {
    #[serde(default)]
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredBinding {
    role_ref: RoleRef,
    #[serde(default)]
    subjects: Option<Vec<StoredSubject>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SubjectKind {
    User,
    Group,
}

/// Who a binding is for, as the index knows them: a service account is a user.
struct Subject {
    kind: SubjectKind,
    name: String,
    /// As messages name them.
    told: String,
}

struct Binding {
    name: String,
    namespace: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

impl Binding {
    fn read(entry: &Entry, namespaced: bool) -> Option<Self> {
        let stored: StoredBinding = read(entry)?;
        let namespace = if namespaced { namespace_of(&entry.key) } else { "" };
        let subjects = stored.subjects.into_iter().flatten();
        Some(Self {
            name: name_of(&entry.key).to_owned(),
            namespace: namespace.to_owned(),
            role: stored.role_ref,
            subjects: subjects.filter_map(|subject| indexed(subject, namespace)).collect(),
        })
    }

    /// `RoleBinding "a/ns" of Role "r" to User "u"`, for the subject `at`.
    fn told(&self, at: usize) -> String {
        let (kind, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", self.name.clone())
        } else {
            ("RoleBinding", format!("{}/{}", self.name, self.namespace))
        };
        let RoleRef { kind: role_kind, name: role } = &self.role;
        let role_kind = role_kind.as_str();
        format!("{kind} {name:?} of {role_kind} {role:?} to {}", self.subjects[at].told)
    }
}

/// A subject of a binding; `None` for one that nobody is.
fn indexed(subject: StoredSubject, namespace: &str) -> Option<Subject> {
    let StoredSubject { kind, name, namespace: own } = subject;
    let told = |name: &str| format!("{kind} {name:?}");
    match kind.as_str() {
        "User" => Some(Subject { kind: SubjectKind::User, told: told(&name), name }),
        "Group" => Some(Subject { kind: SubjectKind::Group, told: told(&name), name }),
        "ServiceAccount" => {
            // Within a namespace an account may be named without it.
            let of = if own.is_empty() { namespace } else { &own };
            (!of.is_empty()).then(|| Subject {
                kind: SubjectKind::User,
                told: told(&format!("{name}/{of}")),
                name: format!("{ACCOUNT_PREFIX}{of}:{name}"),
            })
        }
        _ => None,
    }
}

fn read<T: serde::de::DeserializeOwned>(entry: &Entry) -> Option<T> {
    match serde_json::from_slice(&entry.value.bytes) {
        Ok(read) => Some(read),
        Err(error) => {
            tracing::warn!(%error, key = %entry.key, "a role or binding cannot be read");
            None
        }
    }
}

/// The bindings of one place, by who they are for, with the subject's index.
#[derive(Default)]
struct Place {
    users: HashMap<String, Vec<(Arc<Binding>, usize)>>,
    groups: HashMap<String, Vec<(Arc<Binding>, usize)>>,
}

impl Place {
    fn side(&mut self, kind: SubjectKind) -> &mut HashMap<String, Vec<(Arc<Binding>, usize)>> {
        match kind {
            SubjectKind::User => &mut self.users,
            SubjectKind::Group => &mut self.groups,
        }
    }
}

#[derive(Default)]
struct State {
    /// By namespace and name; cluster roles under `""`.
    roles: HashMap<String, HashMap<String, Arc<[Rule]>>>,
    /// By key in the store.
    bindings: HashMap<Arc<str>, Arc<Binding>>,
    places: HashMap<String, Place>,
}

impl State {
    fn rules(&self, role: &RoleRef, namespace: &str) -> Result<&Arc<[Rule]>, String> {
        let place = match role.kind {
            RoleKind::Role => namespace,
            RoleKind::ClusterRole => "",
        };
        let found = self.roles.get(place).and_then(|roles| roles.get(&role.name));
        found.ok_or_else(|| {
            let kind = role.kind.as_str().to_ascii_lowercase();
            format!("{kind}.rbac.authorization.k8s.io {:?} not found", role.name)
        })
    }

    fn bind(&mut self, key: &Arc<str>, binding: Binding) {
        self.unbind(key);
        let binding = Arc::new(binding);
        self.bindings.insert(key.clone(), binding.clone());
        let place = self.places.entry(binding.namespace.clone()).or_default();
        for (at, subject) in binding.subjects.iter().enumerate() {
            let bound = place.side(subject.kind).entry(subject.name.clone()).or_default();
            bound.push((binding.clone(), at));
        }
    }

    fn unbind(&mut self, key: &str) {
        let Some(binding) = self.bindings.remove(key) else { return };
        let Some(place) = self.places.get_mut(&binding.namespace) else { return };
        for subject in &binding.subjects {
            let side = place.side(subject.kind);
            if let Some(bound) = side.get_mut(&subject.name) {
                bound.retain(|(other, _)| !Arc::ptr_eq(other, &binding));
                if bound.is_empty() {
                    side.remove(&subject.name);
                }
            }
        }
        if place.users.is_empty() && place.groups.is_empty() {
            self.places.remove(&binding.namespace);
        }
    }

    /// Every binding that applies to the user, in the cluster and in the namespace.
    fn bound<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Binding, usize)> {
        let places = [Some(""), (!namespace.is_empty()).then_some(namespace)];
        let places = places.into_iter().flatten().filter_map(|place| self.places.get(place));
        places.flat_map(|place| {
            let of_user = place.users.get(&user.name).into_iter();
            let of_groups = user.groups.iter().filter_map(|group| place.groups.get(group));
            of_user.chain(of_groups).flatten().map(|(binding, at)| (&**binding, *at))
        })
    }
}

/// What RBAC says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Allowed, and by what.
    Allowed(String),
    /// Nothing allows it; the roles that are bound and do not exist, where there are any.
    Silent(Option<String>),
}

/// The rules that apply to a user.
#[derive(Debug, Clone, Default)]
pub struct Held {
    pub rules: Vec<Rule>,
    /// Roles that are bound and do not exist.
    pub errors: Vec<String>,
}

/// The tables.
#[derive(Default)]
pub struct Rbac {
    state: RwLock<State>,
}

impl Rbac {
    /// Whether a binding of the user allows a request.
    pub fn decide(&self, user: &UserInfo, asked: &Attributes) -> Answer {
        let state = self.state.read();
        let mut errors: Vec<String> = Vec::new();
        for (binding, at) in state.bound(user, &asked.namespace) {
            match state.rules(&binding.role, &binding.namespace) {
                Ok(rules) if rules.iter().any(|rule| rule.allows(asked)) => {
                    return Answer::Allowed(format!("RBAC: allowed by {}", binding.told(at)));
                }
                Ok(_) => {}
                Err(error) => note(&mut errors, error),
            }
        }
        Answer::Silent((!errors.is_empty()).then(|| format!("RBAC: {}", aggregate(&errors))))
    }

    /// All rules that apply to the user in the cluster and in the namespace.
    pub fn held(&self, user: &UserInfo, namespace: &str) -> Held {
        let state = self.state.read();
        let mut held = Held::default();
        for (binding, _) in state.bound(user, namespace) {
            match state.rules(&binding.role, &binding.namespace) {
                Ok(rules) => held.rules.extend(rules.iter().cloned()),
                Err(error) => note(&mut held.errors, error),
            }
        }
        held
    }

    /// The rules of a role that is bound in `namespace`.
    ///
    /// # Errors
    /// The words of Kubernetes where there is no such role.
    pub fn rules(&self, role: &RoleRef, namespace: &str) -> Result<Arc<[Rule]>, String> {
        self.state.read().rules(role, namespace).cloned()
    }
}

fn note(errors: &mut Vec<String>, error: String) {
    if !errors.contains(&error) {
        errors.push(error);
    }
}

/// Errors as Kubernetes puts them together: one as it is, several in brackets.
pub fn aggregate(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// The roles (of namespaces, or of the cluster) among the tables.
pub struct Roles {
    pub rbac: Arc<Rbac>,
    pub namespaced: bool,
}

impl Roles {
    fn place<'k>(&self, key: &'k str) -> &'k str {
        if self.namespaced { namespace_of(key) } else { "" }
    }

    fn set(&self, state: &mut State, entry: &Entry) {
        let Some(stored) = read::<StoredRole>(entry) else {
            return Self::unset(state, self.place(&entry.key), name_of(&entry.key));
        };
        let place = state.roles.entry(self.place(&entry.key).to_owned()).or_default();
        place.insert(name_of(&entry.key).to_owned(), stored.rules.unwrap_or_default().into());
    }

    fn unset(state: &mut State, place: &str, name: &str) {
        if let Some(roles) = state.roles.get_mut(place) {
            roles.remove(name);
            if roles.is_empty() {
                state.roles.remove(place);
            }
        }
    }
}

impl Table for Roles {
    fn replace(&self, entries: &[Entry]) {
        let state = &mut *self.rbac.state.write();
        state.roles.retain(|place, _| place.is_empty() == self.namespaced);
        entries.iter().for_each(|entry| self.set(state, entry));
    }

    fn put(&self, entry: &Entry) {
        let state = &mut *self.rbac.state.write();
        self.set(state, entry);
    }

    fn remove(&self, key: &str) {
        let state = &mut *self.rbac.state.write();
        Self::unset(state, self.place(key), name_of(key));
    }
}

/// The bindings (of namespaces, or of the cluster) among the tables.
pub struct Bindings {
    pub rbac: Arc<Rbac>,
    pub namespaced: bool,
}

impl Bindings {
    fn set(&self, state: &mut State, entry: &Entry) {
        match Binding::read(entry, self.namespaced) {
            Some(binding) => state.bind(&entry.key, binding),
            None => state.unbind(&entry.key),
        }
    }
}

impl Table for Bindings {
    fn replace(&self, entries: &[Entry]) {
        let state = &mut *self.rbac.state.write();
        let ours = |binding: &Binding| binding.namespace.is_empty() != self.namespaced;
        let keys = state.bindings.iter().filter(|(_, b)| ours(b)).map(|(key, _)| key.clone());
        for key in keys.collect::<Vec<_>>() {
            state.unbind(&key);
        }
        entries.iter().for_each(|entry| self.set(state, entry));
    }

    fn put(&self, entry: &Entry) {
        let state = &mut *self.rbac.state.write();
        self.set(state, entry);
    }

    fn remove(&self, key: &str) {
        let state = &mut *self.rbac.state.write();
        state.unbind(key);
    }
}
