//! Where the hub and its cache are, in the words of the hub's own tools.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

const ENDPOINT: &str = "https://huggingface.co";

/// How models are fetched.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A URL without a slash at its end.
    pub endpoint: String,
    /// The folder with all repositories; none if there is no home.
    pub cache: Option<PathBuf>,
    pub token: Option<Token>,
    /// Where a token may lie, if none is given.
    pub token_file: Option<PathBuf>,
    /// Only the cache is used.
    pub offline: bool,
    /// PEM file of the authorities to trust, in place of the public ones.
    pub authority: Option<PathBuf>,
    pub proxy: Option<ureq::Proxy>,
    /// Whoever sends nothing for this time is asked again.
    pub silence: Duration,
    /// Before the second try of what failed; doubled before each further one.
    pub pause: Duration,
}

/// A secret that lets its owner read private models.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// `None` if it is empty.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_owned()))
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

impl Default for Settings {
    /// The public hub, and no cache yet.
    fn default() -> Settings {
        Settings {
            endpoint: ENDPOINT.to_owned(),
            cache: None,
            token: None,
            token_file: None,
            offline: false,
            authority: None,
            proxy: None,
            silence: Duration::from_secs(30),
            pause: Duration::from_secs(1),
        }
    }
}

impl Settings {
    /// As the hub's other tools read them from environment variables: HF_HOME,
    /// HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE. A
    /// proxy is what the process' own environment names.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Settings {
        Settings {
            proxy: ureq::Proxy::try_from_env(),
            ..Settings::of_variables(lookup)
        }
    }

    fn of_variables(lookup: impl Fn(&str) -> Option<String>) -> Settings {
        let set = |names: &[&str]| {
            let mut values = names.iter().filter_map(|name| lookup(name));
            values.find(|value| !value.is_empty())
        };
        let user = set(&["HOME", "USERPROFILE"]).map(PathBuf::from);
        let expanded = |path: String| match (path.strip_prefix("~/"), &user) {
            (Some(rest), Some(user)) => user.join(rest),
            _ => PathBuf::from(path),
        };
        let caches = set(&["XDG_CACHE_HOME"]).map(expanded);
        let caches = caches.or_else(|| Some(user.as_ref()?.join(".cache")));
        let home = set(&["HF_HOME"]).map(expanded);
        let home = home.or_else(|| Some(caches?.join("huggingface")));
        let at_home = |name: &str| Some(home.as_ref()?.join(name));
        let cache = set(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).map(expanded);
        let token_file = set(&["HF_TOKEN_PATH"]).map(expanded);
        let endpoint = set(&["HF_ENDPOINT"]).unwrap_or_else(|| ENDPOINT.to_owned());
        Settings {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.or_else(|| at_home("hub")),
            token: set(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).and_then(|it| Token::new(&it)),
            token_file: token_file.or_else(|| at_home("token")),
            offline: [&["HF_HUB_OFFLINE"], &["TRANSFORMERS_OFFLINE"]]
                .iter()
                .any(|name| set(*name).is_some_and(|value| is_true(&value))),
            authority: set(&["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
                .map(expanded),
            ..Settings::default()
        }
    }

    /// The token that is given, or else the one that lies in its file.
    pub(crate) fn token(&self) -> Option<Token> {
        let in_file = || {
            let text = std::fs::read_to_string(self.token_file.as_ref()?).ok()?;
            Token::new(&text)
        };
        self.token.clone().or_else(in_file)
    }
}

fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::of_variables(|name| {
            let found = variables.iter().find(|(it, _)| *it == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_the_hubs_tools_have_it() {
        let cache = |variables: &[(&str, &str)]| settings(variables).cache.unwrap();
        let home = ("HOME", "/u");
        assert_eq!(cache(&[home]), PathBuf::from("/u/.cache/huggingface/hub"));
        let xdg = ("XDG_CACHE_HOME", "/x");
        assert_eq!(cache(&[home, xdg]), PathBuf::from("/x/huggingface/hub"));
        let hf = ("HF_HOME", "~/hf");
        assert_eq!(cache(&[home, xdg, hf]), PathBuf::from("/u/hf/hub"));
        let hub = ("HF_HUB_CACHE", "/c");
        assert_eq!(cache(&[home, hf, hub]), PathBuf::from("/c"));
        assert_eq!(settings(&[]).cache, None);
    }

    #[test]
    fn mirrors_tokens_and_offline_are_heard() {
        let plain = settings(&[("HF_TOKEN", ""), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!((plain.token, plain.offline), (None, false));
        let set = settings(&[
            ("HF_ENDPOINT", "http://mirror:8000/"),
            ("HF_TOKEN", " hf_secret\n"),
            ("HF_HUB_OFFLINE", "true"),
            ("HF_HOME", "/h"),
        ]);
        assert_eq!(set.endpoint, "http://mirror:8000");
        assert_eq!(set.token, Token::new("hf_secret"));
        assert!(set.offline);
        assert_eq!(set.token_file, Some("/h/token".into()));
    }

    #[test]
    fn a_token_is_not_shown() {
        let shown = format!("{:?}", settings(&[("HF_TOKEN", "hf_secret")]));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
