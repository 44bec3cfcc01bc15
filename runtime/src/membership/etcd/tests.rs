use clap::{Args, Command, FromArgMatches};

use super::*;

#[cfg(feature = "etcd")]
pub mod live;
#[cfg(feature = "etcd")]
mod secured;
#[cfg(feature = "etcd")]
pub mod server;

/// As the flags say.
pub fn parse<C: Args + FromArgMatches>(flags: &[&str]) -> C {
    let command = C::augment_args(Command::new("test").no_binary_name(true));
    let matches = command.try_get_matches_from(flags).unwrap();
    C::from_arg_matches(&matches).unwrap()
}

fn mistakes<C: Args + FromArgMatches + Check>(flags: &[&str]) -> Vec<String> {
    let mut mistakes = Vec::new();
    parse::<C>(flags).check(&mut mistakes);
    // Of a build without the client: there is a test of its own.
    mistakes.retain(|it| !it.contains(NOT_BUILT));
    mistakes
}

#[test]
fn without_etcd_nothing_is_wrong() {
    assert_eq!(mistakes::<FollowConfig>(&[]), Vec::<String>::new());
    assert_eq!(mistakes::<RegisterConfig>(&[]), Vec::<String>::new());
    assert!(!parse::<Config>(&[]).is_given());
}

#[test]
fn mistakes_are_explained() {
    let url = "--etcd=http://a:2379";
    let table: [(&[&str], &str); 9] = [
        (&["--etcd=a:2379"], "scheme"),
        (&["--etcd=ftp://a:2379"], "neither http nor https"),
        (&["--etcd=http://a"], "no port"),
        (&["--etcd=http://a:2379/v3"], "a path"),
        (&["--etcd=https://a:2379"], "--etcd-ca"),
        (&[url, "--etcd-cluster=a/b"], "--etcd-cluster"),
        (&[url, "--etcd-timeout=0"], "--etcd-timeout"),
        (&[url, "--etcd-user=me"], "--etcd-password-file"),
        (&[url, "--etcd-cert=me.pem"], "--etcd-key"),
    ];
    for (flags, reason) in table {
        let found = mistakes::<Config>(flags);
        assert_eq!(found.len(), 1, "{flags:?}: {found:?}");
        assert!(found[0].contains(reason), "{flags:?}: {found:?}");
    }
    assert_eq!(
        mistakes::<RegisterConfig>(&[url, "--etcd-lease-ttl=1s"]),
        ["--etcd-lease-ttl must be 2s or more"]
    );
    assert_eq!(mistakes::<FollowConfig>(&[url]), Vec::<String>::new());
}

#[test]
#[cfg(not(feature = "etcd"))]
fn a_build_without_the_client_says_how_to_get_it() {
    let mut mistakes = Vec::new();
    parse::<FollowConfig>(&["--etcd=http://a:2379"]).check(&mut mistakes);
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].contains("--features etcd"), "{mistakes:?}");
    let refused = follow(parse(&["--etcd=http://a:2379"]), |_| ());
    assert!(matches!(refused, Err(EtcdError::NotBuilt)));
}
