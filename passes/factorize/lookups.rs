//! Rows of a table as products of matrices that are picked from the cores of a tensor train.
//!
//! The number of a row is written in digits, by divisions; each picks a matrix from its core. Their product, from the first to the last, has an
//! axis for each digit of the columns.

use faer::Mat;
use planish_ir::{Attrs, DType, NodeId, OpName, Patch, Ref, Tensor, TensorError, ValueId, little_endian};

use super::{
    method::{Cost, Gain, Place, Reads, Scene, elements},
    tensor_train::Readers,
    train::{Mode, Train, digits, permuted},
};
use crate::Skip;

/// A table, and the nodes that pick rows of it.
pub(super) struct Lookups<'a> {
    scene: Scene<'a>,
    weight: ValueId,
    nodes: Vec<NodeId>,
    table: &'a Tensor,
    rows: usize,
    columns: usize,
}

impl<'a> Lookups<'a> {
    pub(super) fn of(scene: &Scene<'a>, weight: ValueId, nodes: &[NodeId]) -> Result<Lookups<'a>, Skip> {
        let graph = &scene.model.graph;
        let table = graph.constant(weight).ok_or(Skip::NoMatch)?;
        let &[rows, columns] = table.dims() else { return Err(Skip::NoMatch) };
        let size = |n: u64| usize::try_from(n).ok().filter(|&n| n > 0).ok_or(Skip::NoMatch);
        let gathers = || nodes.iter().filter_map(|&id| graph.node(id));
        if gathers().any(|n| !n.op.is("Gather") || n.input(0) != Some(weight)) {
            return Err(Skip::because("it is a table of which rows are picked, and is read in another way too"));
        }
        if gathers().any(|n| !matches!(n.attrs.int("axis"), None | Some(0 | -2))) {
            return Err(Skip::because("columns of the table are picked, not rows"));
        }
        if scene.model.opsets.get("").is_none_or(|&v| v < 10) {
            return Err(Skip::because("Mod came with opset 10; raise-opset raises it"));
        }
        let ids = || gathers().filter_map(|n| n.input(1)).map(|v| scene.facts.fact(v));
        if ids().any(|f| f.shape().is_none() || !matches!(f.dtype(), Some(DType::I32 | DType::I64))) {
            return Err(Skip::because("it is not known how many axes its indices have, or of which type they are"));
        }
        let is_narrow = ids().any(|f| f.dtype() == Some(DType::I32));
        if is_narrow && i32::try_from(rows).is_err() {
            return Err(Skip::because("32-bit indices cannot count its rows"));
        }
        let (rows, columns) = (size(rows)?, size(columns)?);
        Ok(Lookups { scene: *scene, weight, nodes: nodes.to_vec(), table, rows, columns })
    }
}

/// A node that picks rows, while its patch is made.
struct Picked<'p> {
    patch: &'p mut Patch,
    node: NodeId,
    name: String,
    output: String,
    ids: ValueId,
    dtype: DType,
    /// Axes of the ids.
    rank: usize,
    rows: usize,
    columns: usize,
}

impl<'p> Picked<'p> {
    fn of(table: &Lookups<'_>, id: NodeId, patch: &'p mut Patch) -> Option<Picked<'p>> {
        let graph = &table.scene.model.graph;
        let node = graph.node(id)?;
        let ids = node.input(1)?;
        let fact = table.scene.facts.fact(ids);
        Some(Picked {
            patch,
            node: id,
            name: node.name.clone(),
            output: graph.name_of(node.output(0)?),
            ids,
            dtype: fact.dtype()?,
            rank: fact.shape()?.len(),
            rows: table.rows,
            columns: table.columns,
        })
    }

    fn node(&mut self, op: &str, inputs: [Ref; 2], part: &str) -> Ref {
        let name = if self.name.is_empty() { String::new() } else { format!("{}_{part}", self.name) };
        self.patch.node(OpName::onnx(op), inputs).name(name).output(format!("{}_{part}", self.output), None)
    }

    fn integer(&mut self, value: usize, part: &str) -> Result<Ref, TensorError> {
        let bytes = match self.dtype {
            DType::I32 => little_endian(&[value as i32], i32::to_le_bytes),
            _ => little_endian(&[value as i64], i64::to_le_bytes),
        };
        let tensor = Tensor::from_raw(self.dtype, [0u64; 0].as_slice(), bytes)?;
        Ok(self.patch.constant(format!("{}_{part}", self.output), tensor))
    }

    fn shape(&mut self, sizes: &[usize], part: &str) -> Ref {
        // 0 leaves an axis as it is.
        let all = std::iter::repeat_n(0, self.rank).chain(sizes.iter().map(|&n| n as i64));
        self.patch.constant(format!("{}_{part}_shape", self.output), Tensor::ints(&all.collect::<Vec<i64>>()))
    }

    fn emit(mut self, train: &Train, cores: &[Ref]) -> Result<(), TensorError> {
        // Negative numbers count from the end.
        let count = self.integer(self.rows, "rows")?;
        let id = self.node("Mod", [Ref::from(self.ids), count], "id");
        let mut made: Option<(Ref, usize)> = None;
        for (k, (core, &from)) in train.cores.iter().zip(cores).enumerate() {
            let others = train.cores.get(k + 1..).unwrap_or_default();
            let behind: usize = others.iter().map(|c| c.mode.input).product();
            let mut digit = id;
            if behind > 1 {
                let size = self.integer(behind, &format!("digit_{k}_size"))?;
                digit = self.node("Div", [digit, size], &format!("digits_to_{k}"));
            }
            if k > 0 {
                let size = self.integer(core.mode.input, &format!("digit_{k}_count"))?;
                digit = self.node("Mod", [digit, size], &format!("digit_{k}"));
            }
            let picked = self.node("Gather", [from, digit], &format!("core_{k}"));
            made = Some(match made {
                None => (picked, core.mode.output),
                Some((value, outputs)) => {
                    let product = self.node("MatMul", [value, picked], &format!("to_{k}"));
                    let outputs = outputs * core.mode.output;
                    if others.is_empty() {
                        (product, outputs)
                    } else {
                        let sizes = self.shape(&[outputs, core.behind], &format!("rows_{k}"));
                        (self.node("Reshape", [product, sizes], &format!("rows_{k}")), outputs)
                    }
                }
            });
        }
        let Some((value, _)) = made else { return Ok(()) };
        let sizes = self.shape(&[self.columns], "row");
        self.patch.set_op(self.node, OpName::onnx("Reshape"));
        self.patch.set_attrs(self.node, Attrs::new());
        self.patch.set_input(self.node, 0, Some(value));
        self.patch.set_input(self.node, 1, Some(sizes));
        Ok(())
    }
}

impl Readers for Lookups<'_> {
    fn modes(&self, count: usize) -> Option<Vec<Mode>> {
        let columns = digits(self.columns, count)?;
        // Numbers of rows need not be a product: what is behind the last one is never picked.
        let root = (1..).find(|&d: &usize| d.saturating_pow(u32::try_from(count).unwrap_or(u32::MAX)) >= self.rows)?;
        let rest = root.checked_pow(u32::try_from(count).ok()?.checked_sub(1)?)?;
        let rows = std::iter::once(self.rows.div_ceil(rest)).chain(std::iter::repeat(root));
        let pairs = rows.zip(columns.into_iter().rev());
        (root > 1).then(|| pairs.map(|(input, output)| Mode { input, output }).collect())
    }

    fn matrix(&self, modes: &[Mode]) -> Result<Mat<f64>, String> {
        let values = self.table.to_f64().map_err(|e| e.to_string())?;
        let padded = modes.iter().map(|m| m.input).product();
        Ok(Mat::from_fn(self.columns, padded, |o, i| values.get(i * self.columns + o).copied().unwrap_or(0.0)))
    }

    fn reads(&self) -> Option<Reads> {
        None
    }

    fn gain(&self) -> Gain {
        Gain::Size
    }

    fn cost(&self, places: &[Place]) -> Cost {
        let read = places.iter().map(|p| elements(&p.output)).fold(0, u64::saturating_add);
        let parameters = (self.rows as u64).saturating_mul(self.columns as u64);
        Cost { parameters, macs: 0, moved: read.saturating_mul(2), nodes: places.len() as u64 }
    }

    fn cost_of(&self, places: &[Place], modes: &[Mode], ranks: &[usize]) -> Cost {
        let bond = |k: usize| k.checked_sub(1).and_then(|k| ranks.get(k)).copied().unwrap_or(1) as u64;
        let core = |k: usize, m: &Mode| bond(k) * m.output as u64 * bond(k + 1);
        let parameters = modes.iter().enumerate().map(|(k, m)| core(k, m).saturating_mul(m.input as u64));
        let mut cost = Cost { parameters: parameters.fold(0, u64::saturating_add), ..Cost::default() };
        for p in places {
            let ids = elements(&p.output) / (self.columns as u64).max(1);
            let mut outputs = 1u64;
            for (k, mode) in modes.iter().enumerate() {
                let size = core(k, mode);
                cost = cost.stage(0, 0, ids.saturating_mul(2 * size)).stage(0, 0, ids).stage(0, 0, ids);
                if k > 0 {
                    let (read, made) = (outputs * bond(k), outputs * mode.output as u64 * bond(k + 1));
                    let macs = ids.saturating_mul(outputs.saturating_mul(size));
                    cost = cost.stage(0, macs, ids.saturating_mul(read + size + made)).stage(0, 0, 0);
                }
                outputs = outputs.saturating_mul(mode.output as u64);
            }
        }
        cost
    }

    fn emit(&self, train: &Train, _: Option<&[f64]>, patch: &mut Patch) -> Result<(), String> {
        let error = |e: TensorError| e.to_string();
        let name = self.scene.model.graph.name_of(self.weight);
        let mut cores = Vec::new();
        for (k, core) in train.cores.iter().enumerate() {
            let Mode { input, output } = core.mode;
            let values = permuted(&core.values, &[core.before, output, input, core.behind], &[2, 0, 1, 3]);
            // The first one has rows for outputs, the others columns.
            let dims = if k == 0 { [input, output, core.behind] } else { [input, core.before, output * core.behind] };
            let dims = dims.map(|d| d as u64);
            let tensor = Tensor::from_f64_as(self.table.dtype(), dims.as_slice(), &values).map_err(error)?;
            cores.push(patch.constant(format!("{name}_core_{k}"), tensor));
        }
        for &id in &self.nodes {
            Picked::of(self, id, patch).ok_or("a node is missing")?.emit(train, &cores).map_err(error)?;
        }
        Ok(())
    }
}
