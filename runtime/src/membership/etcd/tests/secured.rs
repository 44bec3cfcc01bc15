//! An etcd that asks who is there: passwords and TLS.

use std::path::{Path, PathBuf};

use etcd_client::Client;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::live::{Follower, added, worker};
use super::server::Etcd;

const PASSWORD: &str = "skald";

/// A file with the password, a line as editors write it.
fn password_file(etcd: &Etcd, password: &str) -> PathBuf {
    let path = etcd.directory().join(password);
    std::fs::write(&path, format!("{password}\n")).unwrap();
    path
}

async fn demand_passwords(etcd: &Etcd) {
    let mut client = Client::connect([etcd.url()], None).await.unwrap();
    client.user_add("root", PASSWORD, None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
}

#[tokio::test]
async fn user_and_password_are_given_and_a_wrong_one_is_no_end() {
    let Some(mut etcd) = Etcd::start() else {
        return;
    };
    demand_passwords(&etcd).await;
    let file = password_file(&etcd, "wrong");
    let flag = format!("--etcd-password-file={}", file.display());
    let flags = ["--etcd-user=root", flag.as_str()];
    let mut router = Follower::new(&[etcd.url()], &flags);
    let _a = worker("a", 1, &etcd.url(), &flags);
    router.until_source(false).await;
    // The secret is rotated.
    std::fs::write(&file, PASSWORD).unwrap();
    assert_eq!(router.next().await, added("a", 1));
    // etcd forgets the tokens it gave.
    etcd.kill();
    router.until_source(false).await;
    etcd.restart();
    let _b = worker("b", 2, &etcd.url(), &flags);
    assert_eq!(router.next().await, added("b", 2));
}

struct Certificates {
    ca: PathBuf,
    other_ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn write_certificates(directory: &Path) -> Certificates {
    let files = Certificates {
        ca: directory.join("ca.pem"),
        other_ca: directory.join("other.pem"),
        certificate: directory.join("cert.pem"),
        key: directory.join("key.pem"),
    };
    let (ca, other) = (authority(), authority());
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    std::fs::write(&files.ca, ca.pem()).unwrap();
    std::fs::write(&files.other_ca, other.pem()).unwrap();
    std::fs::write(&files.certificate, certificate.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

#[tokio::test]
async fn etcd_is_known_by_its_certificate_and_knows_ours() {
    let started = Etcd::start_with(|directory| {
        let files = write_certificates(directory);
        vec![
            flag("cert-file", &files.certificate),
            flag("key-file", &files.key),
            flag("trusted-ca-file", &files.ca),
            "--client-cert-auth".to_owned(),
        ]
    });
    let Some(etcd) = started else { return };
    let path = |name: &str| etcd.directory().join(name);
    let flags = |ca: &str| {
        [
            flag("etcd-ca", &path(ca)),
            flag("etcd-cert", &path("cert.pem")),
            flag("etcd-key", &path("key.pem")),
        ]
    };
    let mut stranger = Follower::new(&[etcd.url()], &flags("other.pem"));
    let mut router = Follower::new(&[etcd.url()], &flags("ca.pem"));
    let _a = worker("a", 1, &etcd.url(), &flags("ca.pem"));
    assert_eq!(router.next().await, added("a", 1));
    stranger.until_source(false).await;
}
