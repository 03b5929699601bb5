//! The `pod-template-hash`: FNV-1a (32 bit) over the template and, after a collision, its count,
//! written with characters that make no words, as Kubernetes does
//! (`pkg/controller/controller_utils.go`, `ComputeHash`). The bytes that are hashed are the
//! canonical JSON of the template, so the value differs from Kubernetes' own, which hashes a dump
//! of Go structs; nothing depends on the value.

use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::controllers::view::canonical;

const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The hash of a template.
pub fn hash(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    let mut state = fnv(0x811c_9dc5, canonical(template).as_bytes());
    if let Some(count) = collision_count {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&count.to_le_bytes());
        state = fnv(state, &bytes);
    }
    safe_encode(&state.to_string())
}

fn fnv(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_and_encoding_give_the_published_values() {
        // The test vectors of FNV-1a for "" and "a".
        assert_eq!(fnv(0x811c_9dc5, b""), 0x811c_9dc5);
        assert_eq!(fnv(0x811c_9dc5, b"a"), 0xe40c_292c);
        // '0' is 48, and 48 % 27 is 21.
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn a_collision_gives_another_name() {
        let template = PodTemplateSpec::default();
        assert_ne!(hash(&template, None), hash(&template, Some(1)));
        assert_eq!(hash(&template, Some(1)), hash(&template, Some(1)));
    }
}
