//! The format of a manifest, key by key: the one place that knows it.
//!
//! A key that is added here is checked, suggested, and in the JSON Schema. What it means is read
//! in [`read`](super::read).

pub(super) mod crons;
pub(super) mod plugins;

use super::limits::{
    COMMANDS_MAX, CRONS_MAX, HOSTNAMES_MAX, INSTANCE_TYPES_MAX, QUANTITY_MAX, SCRIPTS_MAX,
    SERVICES_MAX,
};
use super::rule;
use super::shape::{Key, List, Shape, Table};

/// The only format there is.
pub(super) const FORMAT: u64 = 1;

/// What `health.path` and the others are when not given.
pub(super) mod default {
    use crate::time::Span;

    pub(in super::super) const QUANTITY: u32 = 1;
    pub(in super::super) const START_TIMEOUT: Span = Span::seconds(20);
    pub(in super::super) const STANDALONE_WAIT: Span = Span::seconds(5);
    pub(in super::super) const HEALTH_INTERVAL: Span = Span::seconds(1);
    pub(in super::super) const HEALTH_TIMEOUT: Span = Span::seconds(2);
    pub(in super::super) const UNHEALTHY_AFTER: u32 = 3;
    pub(in super::super) const RESTART_AFTER: u32 = 0;
    pub(in super::super) const CRON_TIMEOUT: Span = Span::seconds(300);
    pub(in super::super) const CRON_RETRIES: u32 = 0;
}

/// The document.
pub(super) static ROOT: Table = Table {
    keys: &[
        Key::required(
            "manifest",
            "What kind of file this is.",
            Shape::Map(&MANIFEST),
        ),
        Key::required("application", "What is deployed.", Shape::Map(&APPLICATION)),
        Key::required(
            "instances",
            "The sets of equal processes of which the application consists.",
            Shape::List(&INSTANCES),
        ),
        Key::optional(
            "services",
            "What the application uses; credentials are in PM_SERVICES under the name.",
            Shape::List(&SERVICES),
        ),
    ],
};

static MANIFEST: Table = Table {
    keys: &[Key::required(
        "format",
        "The version of this format: 1.",
        Shape::Whole {
            least: FORMAT,
            most: FORMAT,
        },
    )],
};

static APPLICATION: Table = Table {
    keys: &[
        Key::required(
            "name",
            "The name of the application; it becomes part of its hostnames, in lower case.",
            Shape::Text(&rule::APPLICATION_NAME),
        ),
        Key::optional("tags", "Free-form.", Shape::Free)
            .without_effect("the tags of an application are checked, and nothing uses them"),
        Key::optional(
            "env",
            "Variables for every instance type.",
            Shape::Variables,
        ),
        Key::optional(
            "prepare",
            "What is done once per version to the source, before it can run.",
            Shape::Map(&PREPARE),
        ),
        Key::optional(
            "release",
            "What is done once per version, after prepare and before it may become current.",
            Shape::Map(&RELEASE),
        )
        .without_effect("release commands are checked, and this release does not run them yet"),
    ],
};

static PREPARE: Table = Table {
    keys: &[
        Key::optional(
            "runtime",
            "The runtime whose environment the commands see.",
            Shape::Plugin(&plugins::PREPARE_RUNTIME),
        ),
        Key::optional(
            "commands",
            "Run in order, in the unpacked source.",
            Shape::List(&PREPARE_SCRIPTS),
        ),
    ],
};

static PREPARE_SCRIPTS: List = List {
    of: Shape::Plugin(&plugins::SCRIPT),
    least: 0,
    most: SCRIPTS_MAX,
};

static RELEASE: Table = Table {
    keys: &[
        Key::required(
            "commands",
            "The lines of one bash script that stops at the first failure.",
            Shape::List(&COMMANDS),
        ),
        Key::optional(
            "timeout",
            "How long they may take together.",
            Shape::Text(&rule::UP_TO_A_DAY),
        ),
    ],
};

/// The lines of a script.
pub(super) static COMMANDS: List = List {
    of: Shape::Text(&rule::COMMAND),
    least: 1,
    most: COMMANDS_MAX,
};

static INSTANCES: List = List {
    of: Shape::Map(&INSTANCE),
    least: 0,
    most: INSTANCE_TYPES_MAX,
};

static INSTANCE: Table = Table {
    keys: &[
        Key::required(
            "name",
            "Unique in the manifest; one DNS label.",
            Shape::Text(&rule::INSTANCE_TYPE_NAME),
        ),
        Key::optional(
            "quantity",
            "How many instances are to run; 1 when not given.",
            Shape::Whole {
                least: 0,
                most: QUANTITY_MAX,
            },
        ),
        Key::required(
            "runtime",
            "How an instance is run.",
            Shape::Plugin(&plugins::RUNTIME),
        ),
        Key::optional(
            "startup",
            "Run on the node, per instance, in its directory, before it starts.",
            Shape::List(&PREPARE_SCRIPTS),
        ),
        Key::optional(
            "placement",
            "Where instances may be placed.",
            Shape::Plugin(&plugins::PLACEMENT),
        ),
        Key::optional(
            "hostnames",
            "Routed to the current version; a wildcard is written \"*.example.com\".",
            Shape::List(&HOSTNAMES),
        ),
        Key::optional(
            "standalone",
            "True: it has no port and is never routed.",
            Shape::Boolean,
        ),
        Key::optional(
            "exclusive",
            "True: only the current version's instances run; the old ones stop before the new ones start.",
            Shape::Boolean,
        ),
        Key::optional(
            "env",
            "Variables; they win over those of the application.",
            Shape::Variables,
        ),
        Key::optional(
            "health",
            "When an instance is healthy; without it, its port in LISTEN is enough.",
            Shape::Map(&HEALTH),
        ),
        Key::optional("stop", "How an instance is stopped.", Shape::Map(&STOP)),
        Key::optional("limits", "What an instance may use.", Shape::Map(&LIMITS)),
        Key::optional(
            "crons",
            "Paths that are requested on schedule.",
            Shape::List(&CRONS),
        ),
    ],
};

static HOSTNAMES: List = List {
    of: Shape::Text(&rule::HOSTNAME),
    least: 0,
    most: HOSTNAMES_MAX,
};

static HEALTH: Table = Table {
    keys: &[
        Key::required(
            "path",
            "Answered with a status below 400 by a healthy instance.",
            Shape::Text(&rule::URI),
        ),
        Key::optional(
            "interval",
            "Time between two probes; 1s when not given.",
            Shape::Text(&rule::PROBE),
        )
        .without_effect(
            "it is how often the health path is asked while an instance starts; this release does not go on asking once it runs",
        ),
        Key::optional(
            "timeout",
            "Time that an answer may take; 2s when not given.",
            Shape::Text(&rule::PROBE),
        ),
        Key::optional(
            "unhealthy_after",
            "Failed probes in a row until no traffic is sent; 3 when not given.",
            Shape::Whole {
                least: 1,
                most: 1000,
            },
        )
        .without_effect(
            "the health path is asked when an instance starts; this release does not take a running instance out of traffic because of it",
        ),
        Key::optional(
            "restart_after",
            "Failed probes in a row until a restart; 0, never, when not given.",
            Shape::Whole {
                least: 0,
                most: 1000,
            },
        )
        .without_effect(
            "the health path is asked when an instance starts; this release does not restart a running instance because of it",
        ),
    ],
};

/// The signals that may stop an instance, each with and without its prefix.
pub(super) static SIGNALS: &[&str] = &[
    "TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL", "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP",
    "SIGUSR1", "SIGUSR2", "SIGKILL",
];

static STOP: Table = Table {
    keys: &[
        Key::optional(
            "signal",
            "What asks the process to end; TERM when not given.",
            Shape::Word(SIGNALS),
        ),
        Key::optional(
            "grace",
            "Time until the whole tree of processes is killed; 30s when not given.",
            Shape::Text(&rule::UP_TO_AN_HOUR),
        ),
    ],
};

const LIMIT_WITHOUT_EFFECT: &str = "limits are checked, and this release does not enforce them yet";

static LIMITS: Table = Table {
    keys: &[
        Key::optional("memory", "Bytes, such as 512M.", Shape::Text(&rule::MEMORY))
            .without_effect(LIMIT_WITHOUT_EFFECT),
        Key::optional("cpu", "Cores, such as 1.5.", Shape::Text(&rule::CPU))
            .without_effect(LIMIT_WITHOUT_EFFECT),
        Key::optional(
            "pids",
            "Processes and threads.",
            Shape::Whole {
                least: 1,
                most: 1_000_000,
            },
        )
        .without_effect(LIMIT_WITHOUT_EFFECT),
    ],
};

static CRONS: List = List {
    of: Shape::Map(&crons::CRON),
    least: 0,
    most: CRONS_MAX,
};

static SERVICES: List = List {
    of: Shape::Plugin(&plugins::SERVICE),
    least: 0,
    most: SERVICES_MAX,
};
