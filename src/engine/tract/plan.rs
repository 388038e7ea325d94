//! Plans: a model made ready for inputs of certain shapes.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context;
use planish_ir::{DType, Dims, Tensor, onnx::export_tensor};
use planish_passes::{EngineError, Tensors};
use planish_proto::onnx;
use prost::Message;
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, TractResult, TypedRunnableModel};

use super::{
    quiet::quietly,
    rounding::framework,
    tensor::{from_tract, to_tract},
    weights::{FOLDER, Weights},
};
use crate::engine::{
    lower::for_tract,
    program::{failed, prune},
};

/// Plans kept at a time, and bytes of weights that they may hold together. Each has a copy of its own; one is always
/// kept.
const KEPT: u64 = 8;
const KEPT_BYTES: u64 = 512 << 20;
/// Bytes of tract's own structures, at the most that was measured.
const PLANNING: u64 = 40 << 20;
/// A scalar or vector of up to this many elements may become a constant of a plan: it may be a shape, axes or a bound.
const SMALL: u64 = 64;

/// A model and its plans so far.
pub(super) struct Plans {
    message: onnx::ModelProto,
    /// How many are kept.
    kept: usize,
    /// Least recently made first.
    made: Mutex<Vec<(Key, Slot)>>,
}

/// What a plan was made for.
#[derive(Clone, PartialEq)]
struct Key {
    /// By name.
    inputs: Vec<(String, DType, Dims, Content)>,
    /// tract's rewriting of a model now and then makes one that fails; without it, it runs, slower.
    optimized: bool,
}

/// What a plan takes for granted about an input.
#[derive(Clone, PartialEq)]
enum Content {
    Any,
    Exactly(Tensor),
}

/// Filled by the first who needs it; the others wait.
type Slot = Arc<OnceLock<Result<Arc<Plan>, EngineError>>>;

struct Plan {
    runnable: Arc<TypedRunnableModel>,
    /// Names of the inputs that a run still takes, in tract's order.
    inputs: Vec<String>,
}

/// How many plans of a model with so many bytes of weights are kept.
fn kept(weights: u64) -> usize {
    let kept = (KEPT_BYTES / weights.max(1)).clamp(1, KEPT);
    usize::try_from(kept).unwrap_or(1)
}

/// Bytes of weights, and of what tract makes of them, for samples of so many shapes. Measured: a plan has its weights as they
/// are in the model, and rearranged for its kernels; while it is made, some are there once more. The file that they come
/// from is in memory besides. Something is needed even without weights.
pub(super) fn held(weights: u64, shapes: usize) -> u64 {
    let kept = kept(weights);
    // One that is pushed out by another may still be running.
    let plans = if shapes > kept { kept + 1 } else { shapes.max(1) } as u64;
    let of_weights = weights.saturating_mul(5).saturating_mul(plans).saturating_add(weights.saturating_mul(4)) / 2;
    of_weights.saturating_add(PLANNING)
}

impl Plans {
    /// No plans yet. The message shares its weights with the model.
    pub(super) fn new(message: onnx::ModelProto) -> Plans {
        let weights: u64 = message.graph.iter().flat_map(|g| &g.initializer).map(bytes).sum();
        Plans { message, kept: kept(weights), made: Mutex::default() }
    }

    /// The outputs of the message, in order.
    pub(super) fn run(&self, inputs: &Tensors) -> Result<Vec<Tensor>, EngineError> {
        let outputs = self.message.graph.as_ref().map_or(0, |g| g.output.len());
        if outputs == 0 {
            return Ok(Vec::new());
        }
        let open = self.run_as(inputs, |_| Content::Any);
        if open.is_ok() || !inputs.values().any(is_small) {
            return open;
        }
        // What this fails with is nearer to the cause than what the first attempt failed with.
        self.run_as(inputs, |t| if is_small(t) { Content::Exactly(t.clone()) } else { Content::Any })
    }

    fn run_as(&self, inputs: &Tensors, content: impl Fn(&Tensor) -> Content) -> Result<Vec<Tensor>, EngineError> {
        let describe =
            |(name, t): (&String, &Tensor)| (name.clone(), t.dtype(), Dims::from_slice(t.dims()), content(t));
        let key = Key { inputs: inputs.iter().map(describe).collect(), optimized: true };
        match self.run_by(&key, inputs) {
            Err(EngineError::Failed { message }) => {
                let plain = self.run_by(&Key { optimized: false, ..key }, inputs);
                // Why the usual way failed says more.
                plain.map_err(|_| EngineError::Failed { message })
            }
            result => result,
        }
    }

    fn run_by(&self, key: &Key, inputs: &Tensors) -> Result<Vec<Tensor>, EngineError> {
        let slot = self.slot(key);
        let plan = slot.get_or_init(|| self.plan(key).map(Arc::new)).clone()?;
        plan.run(inputs)
    }

    fn slot(&self, key: &Key) -> Slot {
        // A panic inside the lock leaves at worst a slot too few.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = made.iter().find(|(k, _)| k == key) {
            return Arc::clone(slot);
        }
        if made.len() >= self.kept {
            made.remove(0);
        }
        let slot = Slot::default();
        made.push((key.clone(), Arc::clone(&slot)));
        slot
    }

    fn plan(&self, key: &Key) -> Result<Plan, EngineError> {
        let mut message = self.message.clone();
        if let Some(graph) = &mut message.graph {
            specialize(graph, &key.inputs);
        }
        for_tract(&mut message)?;
        let graph = message.graph.as_mut().ok_or_else(|| failed("the model has no graph".to_owned()))?;
        let weights = Weights::take(graph);
        let inputs = graph.input.iter().filter_map(|i| i.name.clone()).collect();
        let wanted: Vec<String> = graph.output.iter().filter_map(|o| o.name.clone()).collect();
        let bytes = message.encode_to_vec();
        let runnable = quietly(|| plan(&bytes, &wanted, &weights, key.optimized))?;
        Ok(Plan { runnable, inputs })
    }
}

impl Plan {
    fn run(&self, inputs: &Tensors) -> Result<Vec<Tensor>, EngineError> {
        quietly(|| {
            let given = self.inputs.iter().map(|name| to_tract(inputs.get(name).context("an input is missing")?));
            let outputs = self.runnable.run(given.collect::<TractResult<_>>()?)?;
            outputs.into_iter().map(from_tract).collect::<TractResult<Vec<_>>>()
        })
    }
}

fn bytes(t: &onnx::TensorProto) -> u64 {
    t.raw_data.as_ref().map_or(0, |b| b.len() as u64)
}

fn is_small(t: &Tensor) -> bool {
    t.rank() <= 1 && t.elements() <= SMALL
}

/// Fixes the inputs of a graph to what a key says. An input that is not in it keeps its default.
fn specialize(graph: &mut onnx::GraphProto, inputs: &[(String, DType, Dims, Content)]) {
    for (name, dtype, dims, content) in inputs {
        graph.initializer.retain(|t| t.name.as_ref() != Some(name));
        match content {
            Content::Exactly(t) => {
                graph.input.retain(|i| i.name.as_ref() != Some(name));
                graph.initializer.push(export_tensor(name, t));
            }
            Content::Any => {
                for input in graph.input.iter_mut().filter(|i| i.name.as_ref() == Some(name)) {
                    input.r#type = Some(tensor_type(*dtype, dims));
                }
            }
        }
    }
    graph.input.retain(|i| inputs.iter().any(|(name, ..)| i.name.as_ref() == Some(name)));
    prune(graph);
}

fn tensor_type(dtype: DType, dims: &[u64]) -> onnx::TypeProto {
    use onnx::{tensor_shape_proto as shape, type_proto};
    let dim = |&d: &u64| shape::Dimension {
        value: Some(shape::dimension::Value::DimValue(i64::try_from(d).unwrap_or(i64::MAX))),
        ..Default::default()
    };
    let shape = onnx::TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(dtype.code()), shape: Some(shape) };
    onnx::TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }
}

fn plan(
    message: &[u8],
    outputs: &[String],
    weights: &Weights,
    optimized: bool,
) -> TractResult<Arc<TypedRunnableModel>> {
    let mut onnx = framework().with_ignore_value_info(true);
    onnx.provider = Arc::new(weights.clone());
    let message = onnx.proto_model_for_read(&mut &*message)?;
    let parsed = onnx.parse(&message, Some(FOLDER))?;
    let mut model = parsed.model;
    // Named outlets, because labels get lost where tract merges nodes.
    let outlets: Vec<_> = outputs.iter().filter_map(|name| parsed.outlets_by_name.get(name).copied()).collect();
    model.select_output_outlets(&outlets)?;
    match optimized {
        true => model.into_optimized()?.into_runnable(),
        false => model.into_typed()?.into_runnable(),
    }
}
