//! Flags of `kvasir worker` and `kvasir router` that `kvasir up` has too, and
//! passes on unseen. A flag that both have goes to both.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

/// Flags that `up` decides itself.
const OWN: [&str; 9] = [
    "advertise",
    "device",
    "drain-grace",
    "id",
    "listen",
    "model",
    "role",
    "until-stdin-closes",
    "worker",
];

/// What was given, as arguments of each part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassedOn {
    pub worker: Vec<String>,
    pub router: Vec<String>,
}

fn flags_of<C: Args>() -> Vec<Arg> {
    let command = C::augment_args(Command::new("part"));
    // A cluster on one machine is a list: nobody has to be found.
    let is_own = |flag: &str| OWN.contains(&flag) || flag.starts_with("etcd");
    let passed_on = |arg: &&Arg| arg.get_long().is_some_and(|flag| !is_own(flag));
    command.get_arguments().filter(passed_on).cloned().collect()
}

fn given(flags: &[Arg], matches: &ArgMatches) -> Vec<String> {
    let mut arguments = Vec::new();
    for arg in flags {
        let (id, flag) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
        if matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        if !arg.get_action().takes_values() {
            arguments.push(format!("--{flag}"));
            continue;
        }
        let values = matches.get_raw(id).into_iter().flatten();
        arguments.extend(values.map(|value| format!("--{flag}={}", value.to_string_lossy())));
    }
    arguments
}

impl FromArgMatches for PassedOn {
    fn from_arg_matches(matches: &ArgMatches) -> Result<PassedOn, clap::Error> {
        Ok(PassedOn {
            worker: given(&flags_of::<worker::Config>(), matches),
            router: given(&flags_of::<router::Config>(), matches),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = PassedOn::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for PassedOn {
    fn augment_args(command: Command) -> Command {
        let worker = flags_of::<worker::Config>();
        let is_new = |arg: &Arg| worker.iter().all(|it| it.get_id() != arg.get_id());
        let router = flags_of::<router::Config>().into_iter().filter(is_new);
        let headed = |arg: Arg| match arg.get_help_heading() {
            Some(_) => arg,
            None => arg.help_heading("Router"),
        };
        command.args(router.map(headed)).args(worker.clone())
    }

    fn augment_args_for_update(command: Command) -> Command {
        PassedOn::augment_args(command)
    }
}
