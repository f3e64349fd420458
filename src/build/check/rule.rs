//! The rules, with what they are for.

use std::fmt;

macro_rules! rules {
    ($($name:ident: $text:literal,)*) => {
        /// A rule, by BuildKit's name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $text] $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns its name, as `check=skip=...` has it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// Returns what it is for.
            pub fn explanation(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

rules! {
    StageNameCasing: "Names of stages are the same in capitals or not: write them in lower case, as they are shown.",
    FromAsCasing: "FROM and AS are one instruction, and read best in the same case.",
    NoEmptyContinuation: "An empty line within an instruction is skipped, which surprises; BuildKit means to refuse it one day.",
    ConsistentInstructionCasing: "Instructions are found faster when all are in capitals, or all are not.",
    DuplicateStageName: "When two stages have the same name, the name means the later one only.",
    ReservedStageName: "The names scratch and context mean something else already.",
    JSONArgsRecommended: "A command that a shell runs gets no signals: the shell does. A JSON list runs the command itself.",
    MaintainerDeprecated: "MAINTAINER is no longer supported by much; a label says the same: org.opencontainers.image.authors.",
    UndefinedArgInFrom: "FROM sees only the arguments that are declared before the first stage; others are empty.",
    WorkdirRelativePath: "A relative WORKDIR depends on the one that the base image has, which may change.",
    UndefinedVar: "A variable that was never set is empty. It may be misspelled, or its ARG stands in another stage.",
    MultipleInstructionsDisallowed: "Of several CMD, ENTRYPOINT or HEALTHCHECK of a stage only the last counts.",
    LegacyKeyValueFormat: "NAME value, without =, is an old form that sets one name only and takes the whole line.",
    RedundantTargetPlatform: "A stage is for the target platform anyway.",
    SecretsUsedInArgOrEnv: "What ARG and ENV say stands in the image for all to read. Use RUN --mount=type=secret.",
    InvalidDefaultArgInFrom: "Without --build-arg the image has no name, and the file cannot be built.",
    FromPlatformFlagConstDisallowed: "A stage for one fixed platform cannot be built for another; say so in its name if it must be.",
    CopyIgnoredFile: "A file that the ignore file leaves out is not there to be copied.",
    InvalidDefinitionDescription: "A comment right before an ARG or a stage describes it, and begins with its name.",
    ExposeProtoCasing: "The protocol of a port is written in lower case.",
    ExposeInvalidFormat: "EXPOSE names ports of the container; where they are published is for who runs it to say.",
}

impl Rule {
    /// Is it followed only where somebody asked for it, with `check=experimental=...`?
    pub fn is_experimental(self) -> bool {
        matches!(self, Self::CopyIgnoredFile | Self::InvalidDefinitionDescription)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
