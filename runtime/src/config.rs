//! Layered configuration, one way for all subcommands.
//!
//! A module's `Config` derives [`clap::Args`]; a process flattens them into its
//! subcommand. A value comes from the flag, else from the environment variable
//! `KVASIR_<SUBCOMMAND>_<FLAG>`, else from the section `[subcommand]` of the
//! TOML file named by `--config` or `KVASIR_CONFIG`, else from the default. All
//! mistakes of all layers are reported together, each with its origin.

mod environment;
mod file;
mod flags;
mod setting;
mod values;

use std::ffi::OsString;
use std::fmt;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, FromArgMatches};

pub use values::{ByteSize, HumanDuration, ValueError};

/// Id and long name of the flag that names the configuration file.
const CONFIG: &str = "config";

/// Mistakes that show only when several values are seen together.
pub trait Check {
    /// Adds one line for each mistake, naming the flags at fault as `--flag`.
    fn check(&self, mistakes: &mut Vec<String>);
}

/// What a process was started with.
#[derive(Clone, Debug, Default)]
pub struct Invocation {
    /// The program's name first.
    pub arguments: Vec<OsString>,
    pub environment: Vec<(String, String)>,
    /// Runs when the arguments name no subcommand.
    pub default_subcommand: &'static str,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum Refusal {
    /// Help or version was asked for: the text to show on standard output.
    Shown(String),
    /// One line for each mistake.
    Mistakes(Vec<String>),
}

/// Reads the configuration of a process whose subcommands each take flags only.
pub fn load<C>(invocation: &Invocation) -> Result<C, Refusal>
where
    C: CommandFactory + FromArgMatches + Check,
{
    let mut command = with_config_flag(C::command());
    command.build();
    let (program, name, arguments) = split(invocation);
    let Some(subcommand) = command.find_subcommand(&name).cloned() else {
        return Err(without_subcommand(command, invocation));
    };
    if let Some(help) = flags::help_asked(&subcommand, &arguments) {
        return Err(without_subcommand(
            command,
            &Invocation {
                arguments: vec![program, name.into(), help],
                ..Invocation::default()
            },
        ));
    }

    let mut mistakes = Vec::new();
    let mut settings = flags::read(&subcommand, arguments, &mut mistakes);
    let file = settings.take(CONFIG).map(|it| it.values.concat());
    let file = file.or_else(|| environment::config_file(&invocation.environment));
    settings.fill(environment::read(&subcommand, &invocation.environment));
    if let Some(path) = file {
        settings.fill(file::read(&command, &name, &path, &mut mistakes));
    }
    let refused = settings.drop_invalid(&subcommand, &mut mistakes);
    let arguments = [program, name.clone().into()]
        .into_iter()
        .chain(settings.arguments());
    match parse::<C>(command, arguments) {
        Ok(config) => {
            let mut found = Vec::new();
            config.check(&mut found);
            mistakes.extend(found.into_iter().map(|it| settings.with_origins(it)));
            if mistakes.is_empty() {
                return Ok(config);
            }
        }
        Err(error) => {
            let lines = describe(&error, &name, &refused).into_iter();
            mistakes.extend(lines.map(|it| settings.with_origins(it)));
        }
    }
    Err(Refusal::Mistakes(mistakes))
}

fn with_config_flag(command: Command) -> Command {
    let names: Vec<_> = command
        .get_subcommands()
        .map(|it| it.get_name().to_owned())
        .collect();
    names.into_iter().fold(command, |command, name| {
        let variables = format!("KVASIR_{}_<FLAG>", name.to_uppercase());
        let help = format!(
            "Every flag may also be given by the environment variable {variables} or in the \
             section [{name}] of the configuration file; a flag wins over a variable, a variable \
             over the file."
        );
        let file = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .help_heading(None::<&str>)
            .help("TOML file with the sections of all subcommands [env: KVASIR_CONFIG]");
        command.mut_subcommand(name, |it| it.arg(file).after_help(help))
    })
}

/// Program, subcommand and its arguments.
fn split(invocation: &Invocation) -> (OsString, String, Vec<OsString>) {
    let mut arguments = invocation.arguments.iter().cloned();
    let program = arguments.next().unwrap_or_else(|| "kvasir".into());
    let rest: Vec<_> = arguments.collect();
    let is_flag = |it: &OsString| it.to_string_lossy().starts_with('-');
    let is_global = |it: &OsString| {
        ["-h", "--help", "-V", "--version"]
            .iter()
            .any(|flag| it == flag)
    };
    match rest.first() {
        Some(first) if !is_flag(first) || is_global(first) => (
            program,
            first.to_string_lossy().into_owned(),
            rest[1..].to_vec(),
        ),
        _ => (program, invocation.default_subcommand.to_owned(), rest),
    }
}

/// What clap itself answers: help, version, or that the subcommand is unknown.
fn without_subcommand(command: Command, invocation: &Invocation) -> Refusal {
    match command.try_get_matches_from(&invocation.arguments) {
        Err(error) if error.exit_code() == 0 => Refusal::Shown(error.render().to_string()),
        Err(error) => Refusal::Mistakes(vec![one_line(&error)]),
        Ok(_) => Refusal::Mistakes(vec!["a subcommand is missing".to_owned()]),
    }
}

fn parse<C: FromArgMatches>(
    command: Command,
    arguments: impl Iterator<Item = OsString>,
) -> Result<C, clap::Error> {
    C::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

fn describe(error: &clap::Error, subcommand: &str, refused: &[String]) -> Vec<String> {
    let missing = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) => missing,
        _ => return vec![one_line(error)],
    };
    let name = |usage: &String| {
        usage
            .split([' ', '='])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let is_new = |flag: &String| !refused.contains(flag);
    let line = |flag: String| {
        let variable = environment::variable(subcommand, flag.trim_start_matches('-'));
        format!("{flag} is required (or {variable}, or the file)")
    };
    missing.iter().map(name).filter(is_new).map(line).collect()
}

fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|it| !it.is_empty());
    let told: Vec<_> = lines.take_while(|it| !it.starts_with("Usage:")).collect();
    told.join("; ").trim_start_matches("error: ").to_owned()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Shown(text) => f.write_str(text),
            Refusal::Mistakes(mistakes) => {
                writeln!(f, "the configuration has mistakes:")?;
                mistakes.iter().try_for_each(|it| writeln!(f, "  {it}"))
            }
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests;
