mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::{HubError, ModelName, Request, Settings, Snapshot, Token, fetch};
use server::{COMMIT, FakeHub, content, sha256};

const SMALL: [&str; 4] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "chat_template.jinja",
];

/// A folder of one test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("kvasir-hub-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn model(&self) -> PathBuf {
        self.0.join("models--owner--model")
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.model().join("blobs").join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn settings(hub: &FakeHub, folder: &Folder) -> Settings {
    Settings {
        endpoint: hub.endpoint(),
        cache: Some(folder.0.clone()),
        pause: Duration::ZERO,
        ..Settings::default()
    }
}

fn get(settings: &Settings, name: &str) -> Result<Snapshot, HubError> {
    get_at(settings, name, "main")
}

fn get_at(settings: &Settings, name: &str, revision: &str) -> Result<Snapshot, HubError> {
    let name = ModelName::parse(name).unwrap();
    let request = Request {
        name: &name,
        revision,
        small_files: &SMALL,
        weights: true,
    };
    fetch(settings, &request)
}

fn files(snapshot: &Snapshot) -> Vec<String> {
    let (Snapshot::Checkpoint(folder) | Snapshot::Gguf(folder)) = snapshot;
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn is_whole(path: &Path, length: usize) {
    assert!(fs::read(path).unwrap() == content(length), "{path:?}");
}

/// A sharded checkpoint with a large file that lies elsewhere, as the hub has
/// them.
fn checkpoint() -> FakeHub {
    let index = br#"{"weight_map": {"a": "w-1.safetensors", "b": "w-2.safetensors"}}"#;
    FakeHub::start("owner/model")
        .file("config.json", b"{}")
        .file("tokenizer.json", b"{\"version\": 1}")
        .file("README.md", b"words")
        .file("model.safetensors.index.json", index)
        .large("w-1.safetensors", &content(700_000))
        .large("w-2.safetensors", &content(5))
        .large("pytorch_model.bin", &content(9))
}

#[test]
fn a_checkpoint_comes_with_what_it_needs_and_nothing_else() {
    let (hub, folder) = (checkpoint(), Folder::new());
    let snapshot = get(&settings(&hub, &folder), "owner/model").unwrap();
    let path = folder.model().join("snapshots").join(COMMIT);
    assert_eq!(snapshot, Snapshot::Checkpoint(path.clone()));
    assert_eq!(
        files(&snapshot),
        [
            "config.json",
            "model.safetensors.index.json",
            "tokenizer.json",
            "w-1.safetensors",
            "w-2.safetensors"
        ]
    );
    is_whole(&path.join("w-1.safetensors"), 700_000);
    is_whole(&folder.blob(&sha256(&content(700_000))), 700_000);
    let branch = fs::read_to_string(folder.model().join("refs/main")).unwrap();
    assert_eq!(branch, COMMIT);
}

#[test]
fn what_is_in_the_cache_is_not_fetched_again() {
    let (hub, folder) = (checkpoint(), Folder::new());
    let settings = settings(&hub, &folder);
    let first = get(&settings, "owner/model").unwrap();
    hub.forget();
    assert_eq!(get(&settings, "owner/model").unwrap(), first);
    let listing = "GET /api/models/owner/model/revision/main";
    assert_eq!(hub.asked(), [listing], "only what the branch is today");
    hub.forget();
    assert_eq!(get_at(&settings, "owner/model", COMMIT).unwrap(), first);
    assert_eq!(hub.asked(), [""; 0], "a commit never changes");
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let (hub, folder) = (checkpoint(), Folder::new());
    let mut settings = settings(&hub, &folder);
    settings.offline = true;
    let error = get(&settings, "owner/model").unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }), "{error}");
    settings.offline = false;
    let first = get(&settings, "owner/model").unwrap();
    settings.offline = true;
    hub.forget();
    assert_eq!(get(&settings, "owner/model").unwrap(), first);
    assert_eq!(hub.asked(), [""; 0]);
    // Lost, as by somebody who cleans up.
    fs::remove_file(folder.blob(&sha256(&content(5)))).unwrap();
    let error = get(&settings, "owner/model").unwrap_err().to_string();
    assert!(error.contains("lacks w-2.safetensors"), "{error}");
    settings.offline = false;
    assert_eq!(get(&settings, "owner/model").unwrap(), first);
    let (Snapshot::Checkpoint(path) | Snapshot::Gguf(path)) = first;
    is_whole(&path.join("w-2.safetensors"), 5);
}

#[test]
fn without_a_hub_the_cache_serves_and_an_empty_one_says_so() {
    let (hub, folder) = (checkpoint(), Folder::new());
    let mut settings = settings(&hub, &folder);
    let first = get(&settings, "owner/model").unwrap();
    // A port that nobody listens on: its listener is gone.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    settings.endpoint = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    assert_eq!(get(&settings, "owner/model").unwrap(), first);
    settings.cache = Some(folder.0.join("empty"));
    let error = get(&settings, "owner/model").unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let whole = content(1_000_000);
    let hub = FakeHub::start("owner/model")
        .large("model-q8_0.gguf", &whole)
        .cut(&[300_000, 300_000]);
    let folder = Folder::new();
    let snapshot = get(&settings(&hub, &folder), "owner/model").unwrap();
    let Snapshot::Gguf(path) = snapshot else {
        panic!("{snapshot:?}")
    };
    is_whole(&path, whole.len());
    assert_eq!(hub.ranges(), ["", "bytes=300000-", "bytes=600000-"]);
}

#[test]
fn what_an_earlier_process_left_is_used() {
    let whole = content(500_000);
    let hub = FakeHub::start("owner/model").large("m.gguf", &whole);
    let folder = Folder::new();
    let part = folder.blob(&format!("{}.incomplete", sha256(&whole)));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, &whole[..123_456]).unwrap();
    let Snapshot::Gguf(path) = get(&settings(&hub, &folder), "owner/model").unwrap() else {
        panic!("it is a GGUF file")
    };
    is_whole(&path, whole.len());
    assert_eq!(hub.ranges(), ["bytes=123456-"]);
    assert!(!part.exists());
}

#[test]
fn a_server_without_ranges_gets_the_file_through_too() {
    let whole = content(400_000);
    let hub = FakeHub::start("owner/model")
        .large("m.gguf", &whole)
        .without_ranges()
        .cut(&[150_000]);
    let folder = Folder::new();
    let Snapshot::Gguf(path) = get(&settings(&hub, &folder), "owner/model").unwrap() else {
        panic!("it is a GGUF file")
    };
    is_whole(&path, whole.len());
    assert_eq!(hub.ranges(), ["", "bytes=150000-"]);
}

#[test]
fn a_server_that_falls_silent_is_asked_again() {
    let whole = content(400_000);
    let hub = FakeHub::start("owner/model")
        .large("m.gguf", &whole)
        .cut(&[150_000])
        .silently();
    let folder = Folder::new();
    let mut settings = settings(&hub, &folder);
    settings.silence = Duration::from_millis(100);
    let Snapshot::Gguf(path) = get(&settings, "owner/model").unwrap() else {
        panic!("it is a GGUF file")
    };
    is_whole(&path, whole.len());
    assert_eq!(hub.ranges(), ["", "bytes=150000-"]);
}

#[test]
fn a_connection_that_is_always_cut_is_given_up() {
    let hub = FakeHub::start("owner/model")
        .large("m.gguf", &content(400_000))
        .cut(&[0; 5]);
    let folder = Folder::new();
    let error = get(&settings(&hub, &folder), "owner/model").unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert_eq!(hub.ranges().len(), 5);
}

#[test]
fn a_busy_hub_is_asked_again() {
    let hub = checkpoint().busy(3);
    let folder = Folder::new();
    assert!(get(&settings(&hub, &folder), "owner/model").is_ok());
}

#[test]
fn damaged_content_is_deleted_and_said() {
    let whole = content(300_000);
    let tag = sha256(&whole);
    let hub = FakeHub::start("owner/model").damaged("m.gguf", &whole);
    let folder = Folder::new();
    let error = get(&settings(&hub, &folder), "owner/model").unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("m.gguf arrived damaged and was deleted"),
        "{said}"
    );
    assert!(
        matches!(error, HubError::Checksum { kind: "SHA-256", expected, .. } if expected == tag)
    );
    let left: Vec<_> = fs::read_dir(folder.model().join("blobs"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!folder.model().join("refs").exists());
}

#[test]
fn small_files_are_checked_by_their_git_object() {
    let hub = FakeHub::start("owner/model")
        .damaged_small("config.json", b"{}")
        .large("model.safetensors", &content(3));
    let folder = Folder::new();
    let error = get(&settings(&hub, &folder), "owner/model").unwrap_err();
    assert!(
        matches!(
            &error,
            HubError::Checksum {
                kind: "git object",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_token_goes_to_the_hub_and_to_nobody_else() {
    let (hub, folder) = (checkpoint().private("hf_secret"), Folder::new());
    let mut settings = settings(&hub, &folder);
    let error = get(&settings, "owner/model").unwrap_err();
    assert!(matches!(error, HubError::NoModel { .. }), "{error}");
    settings.token = Token::new("hf_wrong");
    let error = get(&settings, "owner/model").unwrap_err();
    assert!(matches!(error, HubError::BadToken { .. }), "{error}");
    settings.token = None;
    let file = folder.0.join("token");
    fs::write(&file, "hf_secret\n").unwrap();
    settings.token_file = Some(file);
    assert!(get(&settings, "owner/model").is_ok());
    assert!(hub.elsewhere() > 0, "large files lie elsewhere");
    assert_eq!(hub.tokens_elsewhere(), 0);
}

#[test]
fn a_gated_model_says_how_to_get_in() {
    let (hub, folder) = (checkpoint().gated(), Folder::new());
    let mut settings = settings(&hub, &folder);
    let error = get(&settings, "owner/model").unwrap_err();
    assert!(matches!(error, HubError::Gated { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("HF_TOKEN"), "{said}");
    settings.token = Token::new("hf_other");
    let error = get(&settings, "owner/model").unwrap_err();
    assert!(matches!(error, HubError::NoAccess { .. }), "{error}");
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let (hub, folder) = (checkpoint(), Folder::new());
    let settings = settings(&hub, &folder);
    let error = get(&settings, "owner/other").unwrap_err().to_string();
    assert!(error.contains("has no model owner/other"), "{error}");
    let error = get_at(&settings, "owner/model", "v9").unwrap_err();
    assert!(matches!(error, HubError::NoRevision { .. }), "{error}");
    let error = get(&settings, "owner/model:Q4_0").unwrap_err();
    assert!(matches!(error, HubError::NoFile { .. }), "{error}");
}

#[test]
fn a_renamed_model_is_found() {
    let (hub, folder) = (checkpoint().once_called("owner/old"), Folder::new());
    let snapshot = get(&settings(&hub, &folder), "owner/old").unwrap();
    assert!(files(&snapshot).contains(&"w-2.safetensors".to_owned()));
}

#[test]
fn two_that_want_the_same_fetch_it_once() {
    let (hub, folder) = (checkpoint(), Folder::new());
    let settings = settings(&hub, &folder);
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| get(&settings, "owner/model").unwrap()));
        let [first, second] = both.map(|it| it.join().unwrap());
        assert_eq!(first, second);
    });
    assert_eq!(hub.elsewhere(), 2, "each large file once");
}

#[test]
fn a_hostile_hub_writes_nothing_outside_the_cache() {
    for tag in ["../../../../evil", "a/b", "", ".."] {
        let hub = FakeHub::start("owner/model").tagged("m.gguf", tag);
        let folder = Folder::new();
        let error = get(&settings(&hub, &folder), "owner/model").unwrap_err();
        assert!(matches!(error, HubError::Malformed { .. }), "{error}");
    }
    let hub = FakeHub::start("owner/model").large("../m.gguf", &content(3));
    let folder = Folder::new();
    let error = get(&settings(&hub, &folder), "owner/model").unwrap_err();
    assert!(matches!(error, HubError::NoWeights { .. }), "{error}");
}

/// On Linux there is a disk that is always full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let whole = content(300_000);
    let hub = FakeHub::start("owner/model").large("m.gguf", &whole);
    let folder = Folder::new();
    let part = folder.blob(&format!("{}.incomplete", sha256(&whole)));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let error = get(&settings(&hub, &folder), "owner/model").unwrap_err();
    assert!(matches!(error, HubError::Full { .. }), "{error}");
}

#[test]
fn without_a_home_it_says_what_to_set() {
    let name = ModelName::parse("owner/model").unwrap();
    let request = Request {
        name: &name,
        revision: "main",
        small_files: &[],
        weights: true,
    };
    let error = fetch(&Settings::default(), &request).unwrap_err();
    assert!(error.to_string().contains("set HF_HOME"), "{error}");
}
