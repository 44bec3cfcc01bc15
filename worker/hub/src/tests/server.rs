//! A hub in miniature: the URLs, headers and redirects of the real one, with a
//! second server for large files, and faults to order.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

pub(super) struct FakeHub {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    repository: String,
    old_name: Option<String>,
    files: BTreeMap<String, Stored>,
    /// Where large files are.
    store: String,
    token: Option<String>,
    gated: bool,
    no_ranges: bool,
    /// After so many bytes of a large file's body the connection ends, one
    /// response after another.
    cuts: Vec<usize>,
    /// Such a connection does not end, but nothing comes any more.
    silent: bool,
    open: Vec<TcpStream>,
    /// So many requests are answered 503.
    busy: usize,
    asked: Vec<String>,
    ranges: Vec<String>,
    tokens_elsewhere: usize,
}

#[derive(Clone)]
struct Stored {
    tag: String,
    content: Vec<u8>,
    large: bool,
}

struct Heard {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Of the body so much is sent.
    sent: usize,
}

/// Bytes that differ by place.
pub(super) fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

pub(super) fn sha256(content: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(content);
    hex(context)
}

fn git_object(content: &[u8]) -> String {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", content.len()).as_bytes());
    context.update(content);
    hex(context)
}

fn hex(context: Context) -> String {
    let digest = context.finish();
    let bytes = digest.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

impl FakeHub {
    pub(super) fn start(repository: &str) -> FakeHub {
        let state = Arc::new(Mutex::new(State {
            repository: repository.to_owned(),
            ..State::default()
        }));
        let store = listen(state.clone(), State::store);
        let port = store.rsplit(':').next().unwrap();
        // Another host than the hub's, at the same machine.
        state.lock().unwrap().store = format!("http://localhost:{port}");
        let address = listen(state.clone(), State::hub);
        FakeHub { address, state }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn store(self, name: &str, tag: String, content: &[u8], large: bool) -> FakeHub {
        let stored = Stored {
            tag,
            content: content.to_vec(),
            large,
        };
        self.state().files.insert(name.to_owned(), stored);
        self
    }

    pub(super) fn file(self, name: &str, content: &[u8]) -> FakeHub {
        self.store(name, git_object(content), content, false)
    }

    pub(super) fn large(self, name: &str, content: &[u8]) -> FakeHub {
        self.store(name, sha256(content), content, true)
    }

    /// Its bytes are not what the tag says.
    pub(super) fn damaged(self, name: &str, content: &[u8]) -> FakeHub {
        let mut wrong = content.to_vec();
        wrong[content.len() / 2] ^= 1;
        self.store(name, sha256(content), &wrong, true)
    }

    pub(super) fn damaged_small(self, name: &str, content: &[u8]) -> FakeHub {
        self.store(name, git_object(content), &content.repeat(2), false)
    }

    pub(super) fn tagged(self, name: &str, tag: &str) -> FakeHub {
        self.store(name, tag.to_owned(), b"GGUF", true)
    }

    pub(super) fn cut(self, cuts: &[usize]) -> FakeHub {
        self.state().cuts = cuts.to_vec();
        self
    }

    pub(super) fn silently(self) -> FakeHub {
        self.state().silent = true;
        self
    }

    pub(super) fn without_ranges(self) -> FakeHub {
        self.state().no_ranges = true;
        self
    }

    pub(super) fn busy(self, requests: usize) -> FakeHub {
        self.state().busy = requests;
        self
    }

    pub(super) fn private(self, token: &str) -> FakeHub {
        self.state().token = Some(token.to_owned());
        self
    }

    pub(super) fn gated(self) -> FakeHub {
        self.state().gated = true;
        self
    }

    pub(super) fn once_called(self, name: &str) -> FakeHub {
        self.state().old_name = Some(name.to_owned());
        self
    }

    /// Methods and paths that the hub was asked for.
    pub(super) fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    pub(super) fn forget(&self) {
        self.state().asked.clear();
    }

    /// Of large files, in order; empty: all.
    pub(super) fn ranges(&self) -> Vec<String> {
        self.state().ranges.clone()
    }

    pub(super) fn elsewhere(&self) -> usize {
        self.state().ranges.len()
    }

    pub(super) fn tokens_elsewhere(&self) -> usize {
        self.state().tokens_elsewhere
    }
}

fn listen(state: Arc<Mutex<State>>, answer: fn(&mut State, &Heard) -> Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (state, stream) = (state.clone(), stream.unwrap());
            std::thread::spawn(move || serve(stream, &state, answer));
        }
    });
    address
}

/// One request for each connection.
fn serve(stream: TcpStream, state: &Mutex<State>, answer: fn(&mut State, &Heard) -> Answer) {
    let Some(heard) = hear(&stream) else { return };
    let answer = answer(&mut state.lock().unwrap(), &heard);
    let mut head = format!("HTTP/1.1 {}\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(head, "content-length: {}\r\n\r\n", answer.body.len());
    let mut sender = &stream;
    // Whoever asked may have left.
    let _ = sender.write_all(head.as_bytes());
    if heard.method != "HEAD" {
        let _ = sender.write_all(&answer.body[..answer.sent.min(answer.body.len())]);
    }
    let mut state = state.lock().unwrap();
    if state.silent && answer.sent < answer.body.len() {
        state.open.push(stream);
    }
}

fn hear(stream: &TcpStream) -> Option<Heard> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let lines = lines.take_while(|line| !line.is_empty());
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_lowercase(), value.to_owned()))
    });
    Some(Heard {
        method,
        path,
        headers: headers.collect(),
    })
}

impl State {
    fn hub(&mut self, heard: &Heard) -> Answer {
        self.asked.push(format!("{} {}", heard.method, heard.path));
        if self.busy > 0 {
            self.busy -= 1;
            return Answer::new("503 Service Unavailable");
        }
        if let Some(refusal) = self.refuse(heard) {
            return refusal;
        }
        if let Some(old) = &self.old_name
            && heard.path.contains(old.as_str())
        {
            let place = heard.path.replace(old.as_str(), &self.repository);
            return Answer::new("307 Temporary Redirect").header("location", place);
        }
        let api = format!("/api/models/{}/revision/", self.repository);
        let files = format!("/{}/resolve/{COMMIT}/", self.repository);
        if let Some(revision) = heard.path.strip_prefix(&api) {
            self.listing(revision)
        } else if let Some(file) = heard.path.strip_prefix(&files) {
            self.resolve(file)
        } else {
            Answer::new("404 Not Found").header("x-error-code", "RepoNotFound".to_owned())
        }
    }

    fn refuse(&self, heard: &Heard) -> Option<Answer> {
        let unauthorized = Answer::new("401 Unauthorized");
        let given = heard.headers.get("authorization");
        if let Some(token) = &self.token {
            return match given {
                Some(given) if *given == format!("Bearer {token}") => None,
                Some(_) => Some(unauthorized.header(
                    "x-error-message",
                    "Invalid credentials in Authorization header".to_owned(),
                )),
                None => Some(unauthorized.header("x-error-code", "RepoNotFound".to_owned())),
            };
        }
        let gated = self.gated && heard.path.contains("/resolve/");
        gated
            .then(|| match given {
                Some(_) => Answer::new("403 Forbidden"),
                None => unauthorized,
            })
            .map(|answer| answer.header("x-error-code", "GatedRepo".to_owned()))
    }

    fn listing(&self, revision: &str) -> Answer {
        if revision != "main" && revision != COMMIT {
            return Answer::new("404 Not Found")
                .header("x-error-code", "RevisionNotFound".to_owned());
        }
        let siblings: Vec<_> = self
            .files
            .keys()
            .map(|name| serde_json::json!({ "rfilename": name }))
            .collect();
        let info =
            serde_json::json!({ "id": self.repository, "sha": COMMIT, "siblings": siblings });
        let mut answer = Answer::new("200 OK");
        answer.body = info.to_string().into_bytes();
        answer
    }

    fn resolve(&self, file: &str) -> Answer {
        let Some(stored) = self.files.get(file) else {
            return Answer::new("404 Not Found").header("x-error-code", "EntryNotFound".to_owned());
        };
        if !stored.large {
            let mut answer = Answer::new("200 OK").header("etag", format!("\"{}\"", stored.tag));
            answer.body = stored.content.clone();
            return answer;
        }
        Answer::new("302 Found")
            .header("etag", "\"of-the-link\"".to_owned())
            .header("x-repo-commit", COMMIT.to_owned())
            .header("x-linked-etag", format!("\"{}\"", stored.tag))
            .header("x-linked-size", stored.content.len().to_string())
            .header("location", format!("{}/{file}", self.store))
    }

    fn store(&mut self, heard: &Heard) -> Answer {
        let range = heard.headers.get("range").cloned().unwrap_or_default();
        self.ranges.push(range.clone());
        if heard.headers.contains_key("authorization") {
            self.tokens_elsewhere += 1;
        }
        let content = &self.files[heard.path.trim_start_matches('/')].content;
        let start = range
            .strip_prefix("bytes=")
            .and_then(|it| it.strip_suffix('-'));
        let start: usize = start.map_or(0, |it| it.parse().unwrap());
        let mut answer = match start {
            start if start == 0 || self.no_ranges => {
                let mut answer = Answer::new("200 OK");
                answer.body = content.clone();
                answer
            }
            start => {
                let (last, all) = (content.len() - 1, content.len());
                let mut answer = Answer::new("206 Partial Content")
                    .header("content-range", format!("bytes {start}-{last}/{all}"));
                answer.body = content[start..].to_vec();
                answer
            }
        };
        if !self.cuts.is_empty() {
            answer.sent = self.cuts.remove(0);
        }
        answer
    }
}

impl Answer {
    fn new(status: &'static str) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            sent: usize::MAX,
        }
    }

    fn header(mut self, name: &'static str, value: String) -> Answer {
        self.headers.push((name, value));
        self
    }
}
