//! A real etcd: one process on ports from the OS, with its data in a directory
//! of its own. Shared by the tests of this crate and of whole clusters.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for etcd to serve.
const PATIENCE: Duration = Duration::from_secs(30);

/// Another process may take a port before etcd does.
const ATTEMPTS: u32 = 5;

/// A running etcd; killed, and its data removed, when dropped.
pub struct Etcd {
    child: Child,
    directory: PathBuf,
    port: u16,
    peer_port: u16,
    flags: Vec<String>,
}

impl Etcd {
    /// `None`, with the reason printed, if this machine has no etcd.
    pub fn start() -> Option<Etcd> {
        Etcd::start_with(|_| Vec::new())
    }

    /// With more flags, which may name files in the directory that the function
    /// is given.
    #[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
    pub fn start_with(flags: impl Fn(&Path) -> Vec<String>) -> Option<Etcd> {
        let version = Command::new("etcd")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if version.is_err() {
            eprintln!("skipped: there is no etcd on PATH (Debian: apt-get install etcd-server)");
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        for _ in 0..ATTEMPTS {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("kvasir-etcd-{}-{number}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&directory).expect("a directory for etcd");
            let (port, peer_port) = free_ports();
            let flags = flags(&directory);
            let mut etcd = Etcd {
                child: spawn(&directory, port, peer_port, &flags),
                directory,
                port,
                peer_port,
                flags,
            };
            if etcd.serves() {
                return Some(etcd);
            }
        }
        panic!("etcd ends as soon as it starts");
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.port)
    }

    /// Its data is in `data` there.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("etcd can be killed");
        self.child.wait().expect("etcd ends");
    }

    /// Serves again after [`Etcd::kill`], on the same port, with what it stored.
    pub fn restart(&mut self) {
        self.child = spawn(&self.directory, self.port, self.peer_port, &self.flags);
        assert!(self.serves(), "etcd does not start again");
    }

    /// As [`Etcd::restart`], having lost all it stored.
    pub fn restart_empty(&mut self) {
        std::fs::remove_dir_all(self.directory.join("data")).expect("etcd has data");
        self.restart();
    }

    /// It keeps its port and its connections and does nothing.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        let status = kill.args([signal, &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|it| it.success()), "kill {signal}");
    }

    fn scheme(&self) -> &'static str {
        let is_secure = self.flags.iter().any(|it| it.starts_with("--cert-file"));
        if is_secure { "https" } else { "http" }
    }

    /// Waits until it serves; `false` if it ended.
    fn serves(&mut self) -> bool {
        let started = Instant::now();
        loop {
            if self.child.try_wait().expect("etcd's status").is_some() {
                return false;
            }
            if self.is_healthy() {
                return true;
            }
            assert!(started.elapsed() < PATIENCE, "etcd does not serve");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its metrics listener is never encrypted.
    fn is_healthy(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.peer_port + 1)) else {
            return false;
        };
        let mut answer = String::new();
        let asked = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.write_all(b"GET /health HTTP/1.0\r\n\r\n"))
            .and_then(|()| stream.read_to_string(&mut answer));
        asked.is_ok() && answer.contains(r#""health":"true""#)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // Fails if it ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A port for clients, and one whose successor is free too.
fn free_ports() -> (u16, u16) {
    let bind = |port| TcpListener::bind(("127.0.0.1", port));
    let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
    let client = bind(0).expect("a free port");
    loop {
        let peer = bind(0).expect("a free port");
        let number = port(&peer);
        if number < u16::MAX && bind(number + 1).is_ok() {
            return (port(&client), number);
        }
    }
}

fn spawn(directory: &Path, port: u16, peer_port: u16, flags: &[String]) -> Child {
    let is_secure = flags.iter().any(|it| it.starts_with("--cert-file"));
    let client = format!(
        "{}://127.0.0.1:{port}",
        if is_secure { "https" } else { "http" }
    );
    let peer = format!("http://127.0.0.1:{peer_port}");
    Command::new("etcd")
        .arg("--data-dir")
        .arg(directory.join("data"))
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .arg("--listen-metrics-urls")
        .arg(format!("http://127.0.0.1:{}", peer_port + 1))
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd starts")
}
