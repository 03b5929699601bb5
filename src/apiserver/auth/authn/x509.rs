//! Client certificates: the subject's common name is the user, its organizations are the groups.
//! TLS has verified the chain; what may have passed since then is the certificate's time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::CREDENTIAL_ID;
use crate::apiserver::auth::UserInfo;
use crate::base::clock::SharedClock;
use crate::link::identity::Facts;

/// How many certificates are remembered: as many as a large cluster has nodes, about.
const KNOWN_MAX: usize = 8192;

struct Known {
    user: UserInfo,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Reads certificates, each once.
pub(super) struct Certificates {
    clock: SharedClock,
    known: Mutex<HashMap<Vec<u8>, Arc<Known>>>,
}

impl Certificates {
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, known: Mutex::default() }
    }

    /// The holder of a certificate (DER).
    ///
    /// # Errors
    /// Why it is nobody.
    pub fn user(&self, der: &[u8]) -> Result<UserInfo, String> {
        let known = self.known.lock().get(der).cloned();
        let known = match known {
            Some(known) => known,
            None => self.read(der)?,
        };
        let now = self.clock.now();
        if now < known.not_before || now > known.not_after {
            return Err("the client certificate is outside its time".to_owned());
        }
        Ok(known.user.clone())
    }

    fn read(&self, der: &[u8]) -> Result<Arc<Known>, String> {
        let facts = Facts::read(der).map_err(|error| error.to_string())?;
        if facts.common_name.is_empty() {
            return Err("x509: subject with cn is required".to_owned());
        }
        let id = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
        let user = UserInfo {
            name: facts.common_name,
            uid: String::new(),
            groups: facts.organizations,
            extra: BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![id])]),
        };
        let (not_before, not_after) = (facts.not_before, facts.not_after);
        let read = Arc::new(Known { user, not_before, not_after });
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(der.to_vec(), read.clone());
        Ok(read)
    }
}
