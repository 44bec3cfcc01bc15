//! A registration as it stands in etcd: versioned JSON.
//!
//! Fields that a later Kvasir adds are ignored; a later version, which means
//! that old readers can't understand it, is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Registration;
use crate::membership::WorkerAddress;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    address: String,
    #[serde(default)]
    epoch: u64,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// The value under a worker's key.
pub(super) fn encode(registration: &Registration) -> Vec<u8> {
    let record = Record {
        version: VERSION,
        address: registration.address.to_string(),
        epoch: registration.epoch,
        labels: registration.labels.clone(),
    };
    serde_json::to_vec(&record).expect("plain strings and numbers are always JSON")
}

/// The registration of the worker `id`.
pub(super) fn decode(id: &str, value: &[u8]) -> Result<Registration, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let unreadable = |error: serde_json::Error| format!("it is not a registration: {error}");
    let Version { version } = serde_json::from_slice(value).map_err(unreadable)?;
    if version != VERSION {
        return Err(format!(
            "it has version {version} and this kvasir reads {VERSION}: upgrade this router"
        ));
    }
    let record: Record = serde_json::from_slice(value).map_err(unreadable)?;
    let address: WorkerAddress = record.address.parse().map_err(|error| format!("{error}"))?;
    Ok(Registration {
        id: id.to_owned(),
        address,
        epoch: record.epoch,
        labels: record.labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_comes_back_as_it_went() {
        let registration = Registration {
            id: "decode-0".to_owned(),
            address: "10.0.0.3:50051".parse().unwrap(),
            epoch: 7,
            labels: BTreeMap::from([("role".to_owned(), "decode".to_owned())]),
        };
        let value = encode(&registration);
        assert_eq!(
            String::from_utf8_lossy(&value),
            r#"{"version":1,"address":"10.0.0.3:50051","epoch":7,"labels":{"role":"decode"}}"#
        );
        assert_eq!(decode("decode-0", &value), Ok(registration));
    }

    #[test]
    fn fields_of_later_versions_are_ignored_and_later_versions_refused() {
        let more = br#"{"version":1,"address":"a:1","zone":"north","epoch":0}"#;
        assert!(decode("a", more).is_ok());
        let table: [(&[u8], &str); 4] = [
            (br#"{"version":2,"where":"a:1"}"#, "upgrade this router"),
            (br#"{"version":1,"address":"a"}"#, "no port"),
            (br#"{"version":1}"#, "missing field `address`"),
            (b"\xff", "not a registration"),
        ];
        for (value, reason) in table {
            let error = decode("a", value).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
