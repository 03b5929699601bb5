//! Requests for certificates: approving and signing need leave for the signer, and nobody gets a
//! certificate of the group that may do everything.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::api::Object;
use crate::api::status::ApiError;
use crate::apiserver::admission::{Operation, Plugin, Request};
use crate::apiserver::auth::authz::Chain;
use crate::apiserver::auth::{Attributes, UserInfo};
use crate::link::identity::signer::KUBE_APISERVER_CLIENT;
use crate::link::identity::{MASTERS_GROUP, read_request};

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";

fn is_about(request: &Request<'_>, subresource: &str, operation: Operation) -> bool {
    let at = request.attributes;
    at.group == GROUP
        && at.resource == PLURAL
        && at.subresource == subresource
        && request.operation == operation
}

fn refuse(request: &Request<'_>, object: &Object, why: &str) -> ApiError {
    let at = request.attributes;
    let name = if at.name.is_empty() { crate::api::meta::name(object) } else { &at.name };
    ApiError::forbidden(GROUP, PLURAL, name, why)
}

/// Whether the user may do `verb` in the name of a signer, or of all of its domain.
async fn may(authorizer: &Chain, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let asked = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Attributes::default()
        };
        if authorizer.decide(user, &asked).await.allowed {
            return true;
        }
    }
    false
}

/// `CertificateApproval`.
pub struct CertificateApproval {
    pub(super) authorizer: Arc<Chain>,
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        if !is_about(request, "approval", Operation::Update) {
            return Ok(());
        }
        let old = request.old.unwrap_or(object);
        let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
        if may(&self.authorizer, request.user, "approve", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to approve requests with signerName {signer:?}");
        Err(refuse(request, object, &why))
    }
}

/// `CertificateSigning`.
pub struct CertificateSigning {
    pub(super) authorizer: Arc<Chain>,
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        if !is_about(request, "status", Operation::Update) {
            return Ok(());
        }
        let old = request.old.unwrap_or(&Value::Null);
        let same = |field: &str| old["status"][field] == object["status"][field];
        if same("certificate") && same("conditions") {
            return Ok(());
        }
        let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
        if may(&self.authorizer, request.user, "sign", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to sign requests with signerName {signer:?}");
        Err(refuse(request, object, &why))
    }
}

/// `CertificateSubjectRestriction`.
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(&self, request: &Request<'_>, object: &Object) -> Result<(), ApiError> {
        let spec = &object["spec"];
        let create = is_about(request, "", Operation::Create);
        if !create || spec["signerName"] != KUBE_APISERVER_CLIENT {
            return Ok(());
        }
        let pem = spec["request"].as_str().and_then(|text| STANDARD.decode(text).ok());
        let pem = pem.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let asked = read_request(&pem)
            .map_err(|error| refuse(request, object, &format!("failed to parse CSR: {error}")))?;
        if asked.organizations.iter().any(|organization| organization == MASTERS_GROUP) {
            let why = format!(
                "use of {KUBE_APISERVER_CLIENT} signer with {MASTERS_GROUP} group is not allowed"
            );
            return Err(refuse(request, object, &why));
        }
        Ok(())
    }
}
