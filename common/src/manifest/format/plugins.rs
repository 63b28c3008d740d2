//! The plugins that a manifest may name, and what each takes.

use crate::application::{RUNTIME_SHELL, RUNTIME_STATIC, SERVICE_PARAMETERS};

use super::super::rule;
use super::super::shape::{Key, Known, Others, Parameters, Plugin, Shape, Table};
use super::COMMANDS;

/// The one that spreads instances over nodes.
pub(in super::super) const PLACEMENT_DEFAULT: &str = "paasmaker.placement.default";

const NAME: Key = Key::optional("name", "A label, for people.", Shape::Text(&rule::LABEL));
const PLUGIN: Key = Key::required(
    "plugin",
    "The name of the plugin.",
    Shape::Text(&rule::PLUGIN_NAME),
);
const PARAMETERS: Key = Key::optional("parameters", "What the plugin takes.", Shape::Parameters);
const VERSION: Key = Key::required(
    "version",
    "Read as text: 5.4 is \"5.4\".",
    Shape::Text(&rule::VERSION),
);

/// `instances[].runtime`.
pub(in super::super) static RUNTIME: Plugin = Plugin {
    table: &RUNTIME_TABLE,
    known: &[
        Known {
            name: RUNTIME_SHELL,
            parameters: Parameters::Table(&SHELL_PARAMETERS),
        },
        Known {
            name: RUNTIME_STATIC,
            parameters: Parameters::Table(&STATIC_PARAMETERS),
        },
    ],
    others: Others::Kept,
};

/// `application.prepare.runtime`: only its environment is used.
pub(in super::super) static PREPARE_RUNTIME: Plugin = Plugin {
    table: &PREPARE_RUNTIME_TABLE,
    known: &[],
    others: Others::KeptOrNone,
};

/// An entry of `prepare.commands` or `startup`.
pub(in super::super) static SCRIPT: Plugin = Plugin {
    table: &SCRIPT_TABLE,
    known: &[
        Known {
            name: "paasmaker.prepare.shell",
            parameters: Parameters::Table(&SCRIPT_PARAMETERS),
        },
        Known {
            name: "paasmaker.startup.shell",
            parameters: Parameters::Table(&SCRIPT_PARAMETERS),
        },
    ],
    others: Others::Refused,
};

/// `instances[].placement`.
pub(in super::super) static PLACEMENT: Plugin = Plugin {
    table: &SCRIPT_TABLE,
    known: &[Known {
        name: PLACEMENT_DEFAULT,
        parameters: Parameters::Table(&PLACEMENT_PARAMETERS),
    }],
    others: Others::Refused,
};

/// An entry of `services`.
pub(in super::super) static SERVICE: Plugin = Plugin {
    table: &SERVICE_TABLE,
    known: &[Known {
        name: SERVICE_PARAMETERS,
        parameters: Parameters::Free,
    }],
    others: Others::Refused,
};

static RUNTIME_TABLE: Table = Table {
    keys: &[PLUGIN, VERSION, PARAMETERS, NAME],
};

static PREPARE_RUNTIME_TABLE: Table = Table {
    keys: &[
        PLUGIN,
        VERSION,
        PARAMETERS.without_effect(
            "only the environment of this runtime is used, which takes no parameters",
        ),
        NAME,
    ],
};

static SCRIPT_TABLE: Table = Table {
    keys: &[PLUGIN, PARAMETERS, NAME],
};

static SERVICE_TABLE: Table = Table {
    keys: &[
        Key::required(
            "name",
            "Unique in the manifest; the key in PM_SERVICES.",
            Shape::Text(&rule::SERVICE_NAME),
        ),
        PLUGIN,
        PARAMETERS,
    ],
};

static SHELL_PARAMETERS: Table = Table {
    keys: &[
        Key::required(
            "launch_command",
            "Split as a shell splits words and executed without a shell; %(port)d is the port, %% a percent sign.",
            Shape::Text(&rule::LAUNCH_COMMAND),
        ),
        Key::optional(
            "start_timeout",
            "Time until the port must be in LISTEN; 20 seconds when not given.",
            Shape::Text(&rule::UP_TO_AN_HOUR),
        ),
        Key::optional(
            "standalone_wait",
            "Time that a standalone process must survive; 5 seconds when not given.",
            Shape::Text(&rule::UP_TO_AN_HOUR),
        ),
    ],
};

static STATIC_PARAMETERS: Table = Table {
    keys: &[Key::required(
        "document_root",
        "The directory that is served, relative to the application.",
        Shape::Text(&rule::DOCUMENT_ROOT),
    )],
};

static SCRIPT_PARAMETERS: Table = Table {
    keys: &[Key::required(
        "commands",
        "The lines of one bash script that stops at the first failure.",
        Shape::List(&COMMANDS),
    )],
};

static PLACEMENT_PARAMETERS: Table = Table {
    keys: &[
        Key::optional(
            "tags",
            "Each must equal the node's tag of the same name.",
            Shape::Free,
        ),
        Key::optional(
            "zone",
            "The only zone that will do.",
            Shape::Text(&rule::ZONE),
        ),
        Key::optional(
            "spread",
            "What instances are spread over first; node when not given.",
            Shape::Word(&["node", "zone"]),
        ),
    ],
};
