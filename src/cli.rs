//! The command line.

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use planish_passes::{Target, lint::LINTS};

use crate::{
    bounds, commands, data,
    failure::{Failure, Kind, Result},
    pipeline::EngineChoice,
};

/// A compiler for trained neural networks: ONNX in, smaller and faster ONNX out.
///
/// Exit codes: 0 success; 1 a bug in planish; 2 a command line or pipeline that cannot be used; 3 a file that cannot be
/// read or written; 4 the result is worse than asked for, nothing was written, or `lint` found something.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    /// Log more: -v says what each pass does, -vv each patch, -vvv each refusal.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline of passes on a model, verify the result, and write it.
    Compile(Compile),
    /// Say what is in a model: operators, parameters, MACs, sizes, dynamic dims, biggest weights.
    Inspect(Inspect),
    /// Run two models on the same inputs and compare their outputs.
    Verify(Verify),
    /// Hold a model against the rules of a target: what it refuses, what it runs slower than it could.
    Lint(Lint),
    /// Find the patch of a pipeline after which the result is wrong.
    Bisect(Bisect),
    /// Shrink a model on which a pipeline, or a command, fails to a small textual one on which it still does.
    Reduce(Reduce),
    /// Say how the operators, weights and costs of two models differ.
    Diff(Diff),
    /// List the passes, or explain one.
    Passes(Passes),
    /// List the operators that planish knows, and what it knows of them.
    Operators(Operators),
    /// Look after files of rewrite rules.
    Rules(Rules),
    /// Write a commented pipeline for a model to start from.
    Init(Init),
    /// Print the JSON Schema of pipeline files.
    Schema,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What is done to a model and how the result is verified: arguments of every command that runs a pipeline.
#[derive(Debug, Args)]
pub struct Recipe {
    /// A built-in pipeline.
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// A pipeline file.
    #[arg(long, value_name = "FILE.yaml", conflicts_with = "preset")]
    pub pipeline: Option<PathBuf>,
    /// Inputs for calibration and verification, instead of those that the pipeline names: an .npz file of arrays named
    /// by the model's inputs, a folder of .npy files, a folder of images, or a .txt or .jsonl file of texts.
    #[arg(long, visible_alias = "calibration", value_name = "PATH")]
    pub calib: Option<PathBuf>,
    /// How images and texts become inputs.
    #[command(flatten)]
    pub prepare: PrepareArgs,
    /// What the result is made for, instead of what the pipeline says.
    #[arg(long, value_parser = targets())]
    pub target: Option<Target>,
    /// Who verifies the result, instead of whom the pipeline names.
    #[arg(long, value_enum)]
    pub verify: Option<EngineChoice>,
    /// How many samples are verified, instead of what the pipeline says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: Option<u64>,
    /// Sizes, threads, libraries.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Arguments of `compile`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["preset", "pipeline"])))]
pub struct Compile {
    /// The model to compile.
    pub model: PathBuf,
    /// Where to write the result.
    #[arg(short, long, value_name = "OUT.onnx")]
    pub output: PathBuf,
    /// What is done.
    #[command(flatten)]
    pub recipe: Recipe,
    /// Say which passes looked at a node and why each left it alone, or what it did. A node is named by its name or by one of
    /// its outputs; `*` and `?` stand for any characters.
    #[arg(long, value_name = "NODE")]
    pub explain: Option<String>,
    /// Write a report as JSON.
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Print the report as JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    /// End after this many patches; for finding the one to blame.
    #[arg(long, value_name = "N")]
    pub stop_after: Option<u64>,
    /// Where the weights go: `auto` keeps them in the model up to 2 GB.
    #[arg(long, value_enum, default_value_t = ExternalData::Auto)]
    pub external_data: ExternalData,
    /// Wait until the result is on the disk before it replaces an old one, so that not even a power failure loses both.
    #[arg(long)]
    pub sync: bool,
    /// Write the result even if a gate fails. The exit code stays 4.
    #[arg(long)]
    pub keep_failed: bool,
}

/// Arguments of `bisect`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["preset", "pipeline"])))]
pub struct Bisect {
    /// The model.
    pub model: PathBuf,
    /// What is done.
    #[command(flatten)]
    pub recipe: Recipe,
    /// Write the model before and after the patch into this folder, as before.onnx and after.onnx.
    #[arg(long, value_name = "FOLDER")]
    pub keep: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `reduce`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["preset", "pipeline", "test"])))]
pub struct Reduce {
    /// The model that fails.
    pub model: PathBuf,
    /// Where to write the small one.
    #[arg(short, long, value_name = "OUT.onnxtxt")]
    pub output: PathBuf,
    /// What is done and fails: a pass gives up, or the result is not as close to the original as asked.
    #[command(flatten)]
    pub recipe: Recipe,
    /// A shell command that fails, instead of a pipeline. It gets the path of a model as its last argument, and fails if it
    /// ends with the code, other than 0, that it ends with on the given model.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["preset", "pipeline"])]
    pub test: Option<String>,
}

/// How images and texts become inputs; a pipeline can say more.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// How images are prepared, if the samples are a folder of images.
    #[arg(long, value_enum)]
    pub preprocess: Option<data::Preprocess>,
    /// The model's tokenizer, if the samples are texts; the tokenizer.json beside the model or the texts if left out.
    #[arg(long, value_name = "tokenizer.json")]
    pub tokenizer: Option<PathBuf>,
}

/// Arguments of every command that runs models.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Size of a symbolic dim of the inputs; may be repeated.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = parse_dim)]
    pub dims: Vec<(String, u64)>,
    /// Range of the random numbers for an integer input, the upper end excluded; may be repeated.
    #[arg(long = "range", value_name = "INPUT=LOW..HIGH", value_parser = parse_range)]
    pub ranges: Vec<(String, (i64, i64))>,
    /// Threads; the result does not depend on them. 0 takes all cores.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub threads: u16,
    /// The onnxruntime library, where it is not to be looked for in Python's packages.
    #[arg(long, value_name = "PATH", env = "ORT_DYLIB_PATH")]
    pub onnxruntime_lib: Option<PathBuf>,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The model.
    pub model: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Print the graph in ONNX's textual syntax instead, weights as digests.
    #[arg(long, conflicts_with = "json")]
    pub text: bool,
    /// Print the type that is inferred for every value instead.
    #[arg(long, conflicts_with = "text")]
    pub types: bool,
    /// Print instead which channels could be pruned together, what they carry, and what blocks the others.
    #[arg(long, conflicts_with_all = ["text", "types"])]
    pub prunable: bool,
    /// Print instead all sets of coupled indices: size, and members as value@axis+offset*block.
    #[arg(long, conflicts_with_all = ["text", "types", "prunable", "json"])]
    pub axes: bool,
    /// How many of the biggest weights to list.
    #[arg(long, default_value_t = 10)]
    pub weights: usize,
    /// Size of a symbolic dim of the inputs; may be repeated.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = parse_dim)]
    pub dims: Vec<(String, u64)>,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The reference.
    pub reference: PathBuf,
    /// The model that is compared with it.
    pub model: PathBuf,
    /// Inputs: an .npz file of arrays named by the models' inputs, a folder of .npy files, a folder of images, or a .txt or
    /// .jsonl file of texts; otherwise random ones.
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// How images and texts become inputs.
    #[command(flatten)]
    pub prepare: PrepareArgs,
    /// How many samples.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// Who runs the models.
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    pub engine: EngineChoice,
    /// Fail below this cosine of outputs, for any output.
    #[arg(long, value_name = "X", value_parser = |s: &str| bounds::COSINE.parse(s))]
    pub min_cosine: Option<f64>,
    /// Fail below this share of samples with the same largest element.
    #[arg(long, value_name = "X", value_parser = |s: &str| bounds::SHARE.parse(s))]
    pub top1_agreement: Option<f64>,
    /// Fail above this absolute difference of any element.
    #[arg(long, value_name = "X", value_parser = |s: &str| bounds::DIFFERENCE.parse(s))]
    pub max_abs: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Sizes, threads, libraries.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Arguments of `lint`.
#[derive(Debug, Args)]
pub struct Lint {
    /// The model; not needed for `--rules`.
    #[arg(required_unless_present = "rules")]
    pub model: Option<PathBuf>,
    /// What the model is to run on.
    #[arg(long, value_parser = targets())]
    pub target: Target,
    /// Do not report a rule; may be repeated.
    #[arg(long, value_name = "RULE", value_parser = rules())]
    pub allow: Vec<&'static str>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Say what the rules of the target are instead.
    #[arg(long)]
    pub rules: bool,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// One model.
    pub before: PathBuf,
    /// The other.
    pub after: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Size of a symbolic dim of the inputs; may be repeated.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = parse_dim)]
    pub dims: Vec<(String, u64)>,
}

/// Arguments of `passes`.
#[derive(Debug, Args)]
pub struct Passes {
    /// What to do; `list` if left out.
    #[command(subcommand)]
    pub action: Option<PassesAction>,
}

/// What `passes` can do.
#[derive(Debug, Subcommand)]
pub enum PassesAction {
    /// List all passes (the default).
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the documentation and the configuration of a pass.
    Explain {
        /// Name of the pass.
        name: String,
    },
}

/// Arguments of `operators`.
#[derive(Debug, Args)]
pub struct Operators {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `rules`.
#[derive(Debug, Args)]
pub struct Rules {
    /// What to do.
    #[command(subcommand)]
    pub action: RulesAction,
}

/// What `rules` can do.
#[derive(Debug, Subcommand)]
pub enum RulesAction {
    /// Say everything that is wrong with a rule file, with lines and columns, without running anything.
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// The model that the pipeline is for.
    pub model: PathBuf,
    /// Where to write it; standard output if left out.
    #[arg(short, long, value_name = "FILE.yaml")]
    pub output: Option<PathBuf>,
}

/// The built-in pipelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Fewer nodes and constants, the same function.
    Simplify,
    /// Simplified, and fused into the operators that are fast on the target.
    Optimize,
    /// float16 inside, float32 at inputs and outputs and where values would overflow.
    Fp16,
    /// Weights in 4 bits, in blocks that share a scale; calibration data makes it much more accurate.
    Int4Weights,
    /// Weights as int8 with one scale per channel.
    Int8Weights,
    /// Matrix products in int8 for ONNX Runtime on the CPU, without calibration data.
    OrtCpuInt8Dynamic,
    /// float16 for TensorRT: fused, and in float32 what calibration samples show to need it.
    #[value(name = "tensorrt-fp16")]
    TensorrtFp16,
    /// Computes with 8-bit integers where onnxruntime has kernels for them on CPUs; needs samples.
    OrtCpuInt8,
    /// Computes with 8-bit integers where TensorRT fuses them; needs samples.
    TensorrtInt8,
}

/// Where weights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExternalData {
    /// Into the model, or beside it above 2 GB.
    Auto,
    /// Beside the model.
    Always,
    /// Into the model; an error above 2 GB.
    Never,
}

fn targets() -> impl TypedValueParser<Value = Target> {
    let values = Target::ALL.map(|t| PossibleValue::new(t.name()).help(t.summary()));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<Target>())
}

fn rules() -> impl TypedValueParser<Value = &'static str> {
    let values = LINTS.iter().map(|e| PossibleValue::new(e.name).help(e.summary()));
    let name = |given: String| LINTS.iter().map(|e| e.name).find(|n| *n == given).ok_or("no such rule");
    PossibleValuesParser::new(values).try_map(name)
}

fn parse_dim(s: &str) -> std::result::Result<(String, u64), String> {
    let (name, size) = s.split_once('=').ok_or("expected NAME=N, such as batch=1")?;
    let size = size.parse().map_err(|_| format!("{size:?} is not a size"))?;
    match name.is_empty() {
        true => Err("the name before = is missing".into()),
        false => Ok((name.to_owned(), size)),
    }
}

fn parse_range(s: &str) -> std::result::Result<(String, (i64, i64)), String> {
    let parse = || {
        let (name, range) = s.split_once('=')?;
        let (low, high) = range.split_once("..")?;
        Some((name.to_owned(), (low.parse().ok()?, high.parse().ok()?)))
    };
    match parse() {
        Some((name, (low, high))) if !name.is_empty() && low < high => Ok((name, (low, high))),
        _ => Err("expected INPUT=LOW..HIGH with LOW below HIGH, such as ids=0..1000".into()),
    }
}

impl Cli {
    /// Logging goes to standard error; `RUST_LOG` overrides `-v`.
    pub fn init_logging(&self) {
        let level = ["warn", "info", "debug", "trace"][usize::from(self.verbose.min(3))];
        // tract warns of every opset that is newer than its tables; what it computes wrongly is known and refused.
        let default = format!("warn,tract_onnx=error,planish={level},planish_passes={level}");
        let env = env_logger::Env::default().default_filter_or(default);
        env_logger::Builder::from_env(env).format_timestamp(None).format_target(false).init();
    }

    /// Runs the command.
    pub fn run(self) -> Result {
        match self.command {
            Command::Compile(args) => commands::compile::run(&args),
            Command::Inspect(args) => commands::inspect::run(&args),
            Command::Verify(args) => commands::verify::run(&args),
            Command::Lint(args) => commands::lint::run(&args),
            Command::Bisect(args) => commands::bisect::run(&args),
            Command::Reduce(args) => commands::reduce::run(&args),
            Command::Diff(args) => commands::diff::run(&args),
            Command::Passes(args) => commands::passes::run(&args),
            Command::Operators(args) => commands::operators::run(&args),
            Command::Rules(args) => commands::rules::run(&args),
            Command::Init(args) => commands::init::run(&args),
            Command::Schema => commands::schema(),
            Command::Completions { shell } => commands::completions(shell),
        }
    }
}

impl PrepareArgs {
    /// Enters them into the settings of a source. Fails if they are for another kind of source.
    pub fn apply(&self, images: Option<&mut data::Images>, text: Option<&mut data::Text>) -> Result {
        match (self.preprocess, images) {
            (None, _) => {}
            (Some(_), None) => {
                let message = "--preprocess is for samples that are a folder of images, and these are none";
                return Err(Failure::message(Kind::Config, message));
            }
            (given, Some(images)) => images.preprocess = given,
        }
        match (&self.tokenizer, text) {
            (None, _) => Ok(()),
            (Some(_), None) => {
                let message = "--tokenizer is for samples that are texts (.txt or .jsonl), and these are none";
                Err(Failure::message(Kind::Config, message))
            }
            (given, Some(text)) => {
                text.tokenizer = given.clone();
                Ok(())
            }
        }
    }
}

impl RunArgs {
    /// Sizes and ranges for samples.
    pub fn data_options(&self) -> data::Options {
        data::Options {
            dims: self.dims.iter().cloned().collect(),
            ranges: self.ranges.iter().cloned().collect(),
            ..data::Options::default()
        }
    }

    /// Starts the pool that everything parallel runs in.
    pub fn start_threads(&self) -> Result {
        rayon::ThreadPoolBuilder::new()
            .num_threads(usize::from(self.threads))
            .build_global()
            .map_err(|e| Failure::message(Kind::Internal, format!("cannot start threads: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn dims_are_parsed() {
        assert_eq!(parse_dim("batch=4"), Ok(("batch".into(), 4)));
        assert_eq!(parse_range("ids=0..9"), Ok(("ids".into(), (0, 9))));
        assert!(parse_range("ids=9..0").is_err() && parse_range("0..9").is_err());
        assert!(parse_dim("batch").is_err() && parse_dim("=4").is_err() && parse_dim("n=-1").is_err());
    }
}
