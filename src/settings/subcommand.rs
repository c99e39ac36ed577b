//! The subcommands: their words, what they do in a line, and the option that may be given as a bare argument.
//!
//! What each of them needs is in `command`.

/// A subcommand's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subcommand {
    /// `worker`
    Worker,
    /// `api`
    Api,
    /// `console`
    Console,
    /// `demo`
    Demo,
    /// `receiver`
    Receiver,
    /// `topics plan`
    TopicsPlan,
    /// `topics apply`
    TopicsApply,
    /// `dead-letters list`
    DeadLettersList,
    /// `dead-letters show`
    DeadLettersShow,
    /// `dead-letters redrive`
    DeadLettersRedrive,
    /// `replay`
    Replay,
    /// `resume`
    ResumeRequest,
    /// `explain`
    Explain,
    /// `integrations`
    Integrations,
    /// `health`
    Health,
    /// `attempts`
    Attempts,
    /// `trace`
    Trace,
    /// `check`
    Check,
    /// `completions`
    Completions,
    /// `man`
    Man,
}

impl Subcommand {
    /// All of them, in the order in which help lists them.
    pub(crate) const ALL: [Self; 20] = [
        Self::Worker,
        Self::Api,
        Self::Console,
        Self::Demo,
        Self::Receiver,
        Self::TopicsPlan,
        Self::TopicsApply,
        Self::DeadLettersList,
        Self::DeadLettersShow,
        Self::DeadLettersRedrive,
        Self::Replay,
        Self::ResumeRequest,
        Self::Explain,
        Self::Integrations,
        Self::Health,
        Self::Attempts,
        Self::Trace,
        Self::Check,
        Self::Completions,
        Self::Man,
    ];

    /// Its words on the command line, with one space between them.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Api => "api",
            Self::Console => "console",
            Self::Demo => "demo",
            Self::Receiver => "receiver",
            Self::TopicsPlan => "topics plan",
            Self::TopicsApply => "topics apply",
            Self::DeadLettersList => "dead-letters list",
            Self::DeadLettersShow => "dead-letters show",
            Self::DeadLettersRedrive => "dead-letters redrive",
            Self::Replay => "replay",
            Self::ResumeRequest => "resume",
            Self::Explain => "explain",
            Self::Integrations => "integrations",
            Self::Health => "health",
            Self::Attempts => "attempts",
            Self::Trace => "trace",
            Self::Check => "check",
            Self::Completions => "completions",
            Self::Man => "man",
        }
    }

    /// The option whose value may also be given as a bare argument: the thing that the subcommand is about.
    pub(crate) fn argument(self) -> Option<&'static str> {
        match self {
            Self::DeadLettersShow | Self::DeadLettersRedrive | Self::Explain | Self::Attempts | Self::Trace => {
                Some("event")
            }
            Self::Completions => Some("shell"),
            _ => None,
        }
    }

    /// What it does, in one line.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Worker => "deliver events to the integrations; runs until SIGTERM or SIGINT",
            Self::Api => "serve the registration API; runs until SIGTERM or SIGINT",
            Self::Console => {
                "serve the operators\' page and what it reads; writes nothing; runs until SIGTERM or SIGINT"
            }
            Self::Demo => {
                "show the whole system on this machine: embedded broker, sample events, good and bad receivers"
            }
            Self::Receiver => {
                "run a reference integration endpoint: verifies signatures, echoes, misbehaves on request"
            }
            Self::TopicsPlan => "say which topics are missing or misconfigured, and what that would cost",
            Self::TopicsApply => "create the missing topics and alter the misconfigured ones",
            Self::DeadLettersList => "list the records of the dead-letter topic",
            Self::DeadLettersShow => "show one record of the dead-letter topic: headers and body",
            Self::DeadLettersRedrive => "send dead letters back to delivery, as first attempts with their delivery ids",
            Self::Replay => "deliver past events again to one webhook or integration",
            Self::ResumeRequest => "set a suspended integration active again",
            Self::Explain => "say for one event and one integration which webhooks match, and why or why not",
            Self::Integrations => "list the integrations with their webhooks and how they are",
            Self::Health => "list the integrations that fail or are suspended, since when and why",
            Self::Attempts => "list the attempts that were logged, the newest first",
            Self::Trace => {
                "say what became of one event at each webhook of its workspace, and whether all is accounted for"
            }
            Self::Check => {
                "say whether a worker and an API could work here: files, certificates, brokers, topics, rights, clock"
            }
            Self::Completions => "write the completion script of a shell: bash, zsh or fish",
            Self::Man => "write the manual page, in the language of man",
        }
    }

    /// The first word: of a family (`topics`, `dead-letters`) or the whole name.
    pub(crate) fn first_word(self) -> &'static str {
        self.words().split(' ').next().unwrap_or_default()
    }

    /// The second word of a family's member.
    pub(crate) fn second_word(self) -> Option<&'static str> {
        self.words().split(' ').nth(1)
    }
}
