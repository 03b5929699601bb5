//! A store whose values under some prefixes lie sealed in the engine below: AES-GCM, each value
//! bound to its key by the additional data.
//!
//! ```text
//! \0coracle-sealed-1 | length, name of the key | nonce | ciphertext, tag
//! ```
//!
//! The first key seals; every key opens what it once sealed, and what was never sealed is read as
//! it is. So keys rotate: a new one is put in front, [`SealedStore::reseal`] writes everything
//! anew, the old one is taken away.
//!
//! **Invariant:** nothing under a sealed prefix reaches the engine in the clear while the first
//! key is no [`Seal::Plain`].

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::{
    Entry, Event, Expect, Notice, Page, Range, Revision, Store, StoreError, Value, WatchStream,
    Write,
};

const MAGIC: &[u8] = b"\0coracle-sealed-1";

/// What values are sealed with.
pub enum Seal {
    /// Not at all.
    Plain,
    AesGcm {
        name: String,
        key: Box<LessSafeKey>,
    },
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain => f.write_str("Plain"),
            Self::AesGcm { name, .. } => write!(f, "AesGcm({name})"),
        }
    }
}

impl Seal {
    /// A key of 16 or 32 bytes; `None` for any other length.
    pub fn aes_gcm(name: &str, secret: &[u8]) -> Option<Self> {
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return None,
        };
        let key = UnboundKey::new(algorithm, secret).ok()?;
        Some(Self::AesGcm { name: name.to_owned(), key: Box::new(LessSafeKey::new(key)) })
    }
}

/// The values under these prefixes, and what seals them; the first seals what is written.
#[derive(Debug)]
pub struct Sealed {
    pub prefixes: Vec<String>,
    pub seals: Vec<Seal>,
}

/// An engine with sealed values.
pub struct SealedStore {
    inner: Arc<dyn Store>,
    sealed: Arc<Vec<Sealed>>,
    random: SystemRandom,
}

fn find<'a>(sealed: &'a [Sealed], key: &str) -> Option<&'a Sealed> {
    sealed.iter().find(|one| one.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str())))
}

/// The name of the key in front of a sealed block, and what follows it.
fn opened(block: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = block.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

fn open(seals: &[Seal], key: &str, block: &Bytes) -> Result<Bytes, StoreError> {
    let damaged = |why: &str| StoreError::Engine(format!("the sealed value of {key} {why}"));
    let Some((name, rest)) = opened(block) else { return Ok(block.clone()) };
    let name = String::from_utf8_lossy(name);
    let found = seals.iter().find_map(|seal| match seal {
        Seal::AesGcm { name: known, key } if *known == name => Some(key),
        _ => None,
    });
    let seal = found.ok_or_else(|| {
        damaged(&format!("needs the key {name:?}, which the encryption configuration has not"))
    })?;
    let (nonce, ciphertext) =
        rest.split_at_checked(NONCE_LEN).ok_or_else(|| damaged("is cut off"))?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged("has no nonce"))?;
    let mut buffer = ciphertext.to_vec();
    let length = seal
        .open_in_place(nonce, Aad::from(key.as_bytes()), &mut buffer)
        .map_err(|_| damaged("does not open with its key"))?
        .len();
    buffer.truncate(length);
    Ok(buffer.into())
}

fn open_entry(sealed: &[Sealed], mut entry: Entry) -> Result<Entry, StoreError> {
    if let Some(one) = find(sealed, &entry.key) {
        entry.value = Value {
            bytes: open(&one.seals, &entry.key, &entry.value.bytes)?,
            attrs: open(&one.seals, &entry.key, &entry.value.attrs)?,
        };
    }
    Ok(entry)
}

fn open_event(sealed: &[Sealed], event: Arc<Event>) -> Result<Arc<Event>, StoreError> {
    let Some(one) = find(sealed, &event.entry.key) else { return Ok(event) };
    let previous = event.previous_attrs.as_ref();
    Ok(Arc::new(Event {
        revision: event.revision,
        kind: event.kind,
        previous_attrs: previous
            .map(|attrs| open(&one.seals, &event.entry.key, attrs))
            .transpose()?,
        entry: open_entry(sealed, event.entry.clone())?,
    }))
}

impl SealedStore {
    /// Seals what lies under the prefixes of `sealed`.
    pub fn new(inner: Arc<dyn Store>, sealed: Vec<Sealed>) -> Self {
        Self { inner, sealed: Arc::new(sealed), random: SystemRandom::new() }
    }

    fn seal(&self, seal: &Seal, key: &str, plain: &Bytes) -> Result<Bytes, StoreError> {
        let Seal::AesGcm { name, key: with } = seal else { return Ok(plain.clone()) };
        let failed = |_| StoreError::Engine(format!("the value of {key} was not sealed"));
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(failed)?;
        let mut buffer = plain.to_vec();
        let tag = with
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(key.as_bytes()),
                &mut buffer,
            )
            .map_err(failed)?;
        let length = u8::try_from(name.len()).expect("names of keys are checked to be short");
        let parts: [&[u8]; 6] = [MAGIC, &[length], name.as_bytes(), &nonce, &buffer, tag.as_ref()];
        Ok(parts.concat().into())
    }

    fn seal_value(&self, key: &str, value: Value) -> Result<Value, StoreError> {
        match find(&self.sealed, key).and_then(|one| one.seals.first()) {
            None | Some(Seal::Plain) => Ok(value),
            Some(seal) => Ok(Value {
                bytes: self.seal(seal, key, &value.bytes)?,
                attrs: self.seal(seal, key, &value.attrs)?,
            }),
        }
    }

    fn is_current(&self, entry: &Entry) -> bool {
        let first = find(&self.sealed, &entry.key).and_then(|one| one.seals.first());
        match (opened(&entry.value.bytes), first) {
            (None, None | Some(Seal::Plain)) => true,
            (Some((name, _)), Some(Seal::AesGcm { name: known, .. })) => name == known.as_bytes(),
            _ => false,
        }
    }

    /// Writes anew what is not sealed by the first key. Answers how many values that were.
    ///
    /// # Errors
    /// [`StoreError`] of the engine, and where a value does not open.
    pub async fn reseal(&self) -> Result<usize, StoreError> {
        let mut count = 0;
        for prefix in self.sealed.iter().flat_map(|one| one.prefixes.clone()) {
            let range = Range { prefix: prefix.into(), after: None, limit: 0, revision: None };
            for entry in self.inner.list(range).await?.entries {
                if self.is_current(&entry) {
                    continue;
                }
                let expect = Expect::Modified(entry.modified);
                let entry = open_entry(&self.sealed, entry)?;
                let write = Write::Put { key: entry.key, value: entry.value, expect, ttl: None };
                match self.write(write).await {
                    Ok(_) => count += 1,
                    // Somebody else has written it since, sealed as it should be.
                    Err(StoreError::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(count)
    }
}

#[async_trait]
impl Store for SealedStore {
    async fn write(&self, write: Write) -> Result<Entry, StoreError> {
        let write = match write {
            Write::Put { key, value, expect, ttl } => {
                let value = self.seal_value(&key, value)?;
                Write::Put { key, value, expect, ttl }
            }
            Write::Delete { key, value, expect } => {
                let value = self.seal_value(&key, value)?;
                Write::Delete { key, value, expect }
            }
        };
        match self.inner.write(write).await {
            Ok(entry) => open_entry(&self.sealed, entry),
            Err(StoreError::Conflict(Some(entry))) => {
                Err(StoreError::Conflict(Some(open_entry(&self.sealed, entry)?)))
            }
            Err(error) => Err(error),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let found = self.inner.get(key).await?;
        found.map(|entry| open_entry(&self.sealed, entry)).transpose()
    }

    async fn list(&self, range: Range) -> Result<Page, StoreError> {
        let touches = self.sealed.iter().flat_map(|one| &one.prefixes).any(|prefix| {
            range.prefix.starts_with(prefix.as_str()) || prefix.starts_with(&*range.prefix)
        });
        let mut page = self.inner.list(range).await?;
        if touches {
            let entries = page.entries.into_iter().map(|entry| open_entry(&self.sealed, entry));
            page.entries = entries.collect::<Result<_, _>>()?;
        }
        Ok(page)
    }

    async fn count(&self, prefix: &str) -> Result<u64, StoreError> {
        self.inner.count(prefix).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let sealed = self.sealed.clone();
        let notices = self.inner.watch(prefix, after).await?;
        let opened = notices.map(move |notice| match notice? {
            Notice::Event(event) => open_event(&sealed, event).map(Notice::Event),
            progress @ Notice::Progress(_) => Ok(progress),
        });
        Ok(opened.boxed())
    }

    fn revision(&self) -> Revision {
        self.inner.revision()
    }

    fn progress(&self, prefix: &str) {
        self.inner.progress(prefix);
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.inner.compact(before).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;

    fn store(inner: &Arc<MemoryStore>, seals: Vec<Seal>) -> SealedStore {
        let sealed = Sealed { prefixes: vec!["/secrets/".into()], seals };
        SealedStore::new(inner.clone(), vec![sealed])
    }

    fn put(key: &str, text: &'static str) -> Write {
        let value = Value { bytes: text.into(), attrs: "attrs".into() };
        Write::Put { key: key.into(), value, expect: Expect::Absent, ttl: None }
    }

    fn key(name: &str, byte: u8) -> Seal {
        Seal::aes_gcm(name, &[byte; 32]).expect("32 bytes")
    }

    #[tokio::test]
    async fn what_lies_in_the_engine_is_sealed_and_what_is_read_is_not() {
        let inner = Arc::new(MemoryStore::new());
        let store = store(&inner, vec![key("one", 1), Seal::Plain]);
        let written = store.write(put("/secrets/a", "password")).await.expect("written");
        assert_eq!(&written.value.bytes[..], b"password");
        store.write(put("/pods/a", "open")).await.expect("written");
        let raw = inner.get("/secrets/a").await.expect("read").expect("there");
        let hidden = |block: &[u8]| !block.windows(5).any(|w| w == b"passw" || w == b"attrs");
        assert!(raw.value.bytes.starts_with(MAGIC) && hidden(&raw.value.bytes));
        assert!(hidden(&raw.value.attrs));
        let open = inner.get("/pods/a").await.expect("read").expect("there");
        assert_eq!(&open.value.bytes[..], b"open");
        let read = store.get("/secrets/a").await.expect("read").expect("there");
        assert_eq!(
            (&read.value.bytes[..], &read.value.attrs[..]),
            (&b"password"[..], &b"attrs"[..])
        );
        let mut watch = store.watch("/secrets/", 0).await.expect("a watch");
        let Some(Ok(Notice::Event(event))) = watch.next().await else { panic!("an event") };
        assert_eq!(&event.entry.value.bytes[..], b"password");
        assert_eq!(store.reseal().await.expect("looked at"), 0);
    }

    #[tokio::test]
    async fn keys_rotate() {
        let inner = Arc::new(MemoryStore::new());
        store(&inner, vec![Seal::Plain]).write(put("/secrets/a", "x")).await.expect("written");
        let first = store(&inner, vec![key("one", 1), Seal::Plain]);
        assert_eq!(first.reseal().await.expect("sealed"), 1);
        let second = store(&inner, vec![key("two", 2), key("one", 1)]);
        assert_eq!(
            &second.get("/secrets/a").await.expect("read").expect("x").value.bytes[..],
            b"x"
        );
        assert_eq!(second.reseal().await.expect("sealed"), 1);
        let last = store(&inner, vec![key("two", 2)]);
        assert_eq!(last.reseal().await.expect("looked at"), 0);
        let lost = store(&inner, vec![key("three", 3)]).get("/secrets/a").await;
        let why = lost.expect_err("its key is not there").to_string();
        assert!(why.contains("needs the key \"two\""), "{why}");
        let wrong = store(&inner, vec![key("two", 9)]).get("/secrets/a").await;
        assert!(wrong.expect_err("another key").to_string().contains("does not open"));
    }

    #[tokio::test]
    async fn a_value_does_not_open_under_another_key_of_the_store() {
        let inner = Arc::new(MemoryStore::new());
        let store = store(&inner, vec![key("one", 1)]);
        store.write(put("/secrets/a", "x")).await.expect("written");
        let raw = inner.get("/secrets/a").await.expect("read").expect("there").value;
        let moved =
            Write::Put { key: "/secrets/b".into(), value: raw, expect: Expect::Absent, ttl: None };
        inner.write(moved).await.expect("written");
        assert!(store.get("/secrets/b").await.is_err());
    }

    #[test]
    fn keys_have_16_or_32_bytes() {
        assert!(Seal::aes_gcm("a", &[0; 24]).is_none() && Seal::aes_gcm("a", &[0; 16]).is_some());
    }
}
