//! Finds what the steps need, and installs what can be installed.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::call;

/// The client that `kvasir` has to serve unchanged.
const OPENAI_CLIENT: &str = "openai>=2,<4";

/// Where cargo builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from)
}

/// The cargo that runs this.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

pub fn cargo_has(subcommand: &str) -> bool {
    answers(Command::new(cargo()).args([subcommand, "--version"]))
}

/// Makes sure that a component of the toolchain is there.
pub fn component(component: &str, subcommand: &str) -> Result<()> {
    if cargo_has(subcommand) {
        return Ok(());
    }
    call(Command::new("rustup").args(["component", "add", component]))
        .with_context(|| format!("{component} is missing and rustup can't add it"))
}

/// A C and C++ compiler, for the parts of the tokenizer that are not Rust.
pub fn compiler() -> Result<()> {
    program("cc", "build-essential")?;
    program("c++", "build-essential")
}

/// Makes sure that a program is there; `package` has it on Debian and Ubuntu.
pub fn program(name: &str, package: &str) -> Result<()> {
    if answers(Command::new(name).arg("--version")) {
        return Ok(());
    }
    install(&[package]).with_context(|| format!("{name} is missing"))
}

/// What tests of membership by etcd need: `protoc` for the build of the client,
/// and an etcd that they start on ports of their own.
pub fn etcd() -> Result<()> {
    protoc()?;
    program("etcd", "etcd-server")
}

/// Debian has the standard `.proto` files in a package of their own.
fn protoc() -> Result<()> {
    let protoc = std::env::var_os("PROTOC").unwrap_or_else(|| "protoc".into());
    let mut compile = Command::new(protoc);
    compile.args(["-o", "/dev/null", "google/protobuf/descriptor.proto"]);
    if answers(&mut compile) {
        return Ok(());
    }
    install(&["protobuf-compiler", "libprotobuf-dev"])
        .context("protoc, or its standard .proto files, are missing")
}

/// A Python with the `openai` client, in a virtual environment under `target`.
pub fn python_with_openai() -> Result<PathBuf> {
    let environment = target_dir().join("xtask-python");
    let python = environment.join("bin/python");
    if answers(Command::new(&python).args(["-c", "import openai"])) {
        return Ok(python);
    }
    program("python3", "python3")?;
    if !answers(Command::new("python3").args(["-c", "import ensurepip, venv"])) {
        install(&["python3-venv"]).context("python3 has no venv")?;
    }
    call(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&environment),
    )?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        OPENAI_CLIENT,
    ];
    call(Command::new(&python).args(pip)).context("can't install the openai client")?;
    Ok(python)
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !answers(Command::new("apt-get").arg("--version")) || !is_root() {
        bail!("install it first (on Debian: apt-get install {list})");
    }
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    call(apt.args(["-qq", "update"]))?;
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    call(
        apt.args(["-qq", "-y", "install", "--no-install-recommends"])
            .args(packages),
    )
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn answers(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
