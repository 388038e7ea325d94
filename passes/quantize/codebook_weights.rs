//! Store weights as two or three levels, several in a byte, that a codebook and a scale per channel turn into numbers.
//!
//! Before     y = MatMul (x, w)
//! After      i = Cast (w');  c = Gather (codebook, i);  r = Reshape (c, dims);  v = Mul (r, scale);  y = MatMul (x, v)
//! When       weights of Conv, ConvTranspose, Gemm and MatMul, float or float16, of `min_elements` or more
//! Refuses    a weight that is read elsewhere too, or not finite · tables of Gather · ConvTranspose in groups
//! Numerics   Lossy: the report gives the signal-to-noise ratio of the weights
//! Reference  Rastegari et al., XNOR-Net, ECCV 2016 (binary); Li and Liu, Ternary Weight Networks, 2016; Frantar et al., GPTQ, ICLR 2023
//!
//! A byte holds eight binary or five ternary codes, so the weights take 1 or 1.6 bits instead of 32. All operators of the decoder are
//! as old as opset 9, for runtimes on microcontrollers that know no types below a byte.
//!
//! **What is gained** is the size of the file, which is what flash memory holds; nothing else. Runtimes decode to floats and
//! multiply those: once, when they load the model, if they fold constants, and otherwise at every run. **What is lost** is
//! much, on models that were not trained for it: with calibration data, a sentence encoder (all-MiniLM-L6-v2) in three levels found the
//! right text first for 0.46 of the queries instead of 0.56, where 4 bits in blocks found 0.555. Try it on a few large layers
//! (`exclude` the others), and look at the gate. It goes last: passes that fold constants would decode the weights.

use planish_ir::{Attrs, DType, Dim, Dims, Graph, Model, Numerics, OpName, Patch, Tensor, TensorError, Type};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    algorithm::{self, Algorithm},
    blocks::{Blocks, Format, Matrix, Sides, Unfit, move_axis},
    quantize_weights::{
        QuantizeWeights,
        forms::{Form, Site, Store},
        moments, sites,
    },
};
use crate::{Changes, Context, Pass, PassError, Shape, Skip, Transform, reconstruct::Second};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CodebookWeights {
    /// Numbers that a weight can have, but for the scale of its channel.
    pub levels: Levels,
    /// How codes are found.
    pub algorithm: Algorithm,
    /// Weights with fewer elements stay as they are.
    pub min_elements: u64,
    /// Weights and nodes to leave alone, by name.
    pub exclude: Vec<String>,
    /// GPTQ: share of the mean second moment of the inputs that is added to all of them.
    pub damping: f64,
}

/// Numbers that a weight can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Levels {
    /// -1 and 1.
    Binary,
    /// -1, 0 and 1.
    Ternary,
}

impl Default for CodebookWeights {
    fn default() -> CodebookWeights {
        CodebookWeights {
            levels: Levels::Ternary,
            algorithm: Algorithm::Auto,
            min_elements: 4096,
            exclude: Vec::new(),
            damping: 0.01,
        }
    }
}

impl Levels {
    const fn count(self) -> u16 {
        match self {
            Levels::Binary => 2,
            Levels::Ternary => 3,
        }
    }

    /// How many codes go into a byte for weights of `elements`: what makes codes and codebook smallest.
    fn per_byte(self, elements: u64) -> u32 {
        let most = match self {
            Levels::Binary => 8,
            Levels::Ternary => 5,
        };
        let fits = (1..=most).filter(|&n| elements.is_multiple_of(u64::from(n)));
        let bytes = |n: u32| elements / u64::from(n) + u64::from(self.count()).pow(n) * u64::from(n) * 4;
        fits.min_by_key(|&n| bytes(n)).unwrap_or(1)
    }
}

impl Pass for CodebookWeights {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for CodebookWeights {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let config = QuantizeWeights {
            algorithm: self.algorithm,
            tables: false,
            min_elements: self.min_elements,
            exclude: self.exclude.clone(),
            damping: self.damping,
            ..QuantizeWeights::default()
        };
        let mut changes = Changes::default();
        let mut stores = Vec::new();
        for path in model.graph_paths() {
            let Some(graph) = model.graph_at(&path) else { continue };
            let (weights, refused) = sites::weights(graph, &config);
            changes.skipped.extend(refused.into_iter().map(|(node, skip)| (path.clone(), node, skip)));
            stores.extend(weights.into_iter().filter_map(|w| Some((path.clone(), self.store(w)?))));
        }
        let (seconds, note) = moments::collect(&config, model, cx, &stores)?;
        changes.notes.extend(note);
        let work = |(at, (_, store)): (usize, &(_, Store))| self.encode(store, seconds.of(at));
        let results: Vec<_> = stores.par_iter().enumerate().map(work).collect();
        let mut sqnr = Vec::new();
        for ((path, store), result) in stores.iter().zip(results) {
            let Some(graph) = model.graph_at(path) else { continue };
            let name = graph.name_of(store.value);
            match result.and_then(|(blocks, snr)| Ok((self.patch(graph, store, &blocks)?, snr))) {
                Ok((patch, snr)) => {
                    changes.patches.push((path.clone(), patch));
                    sqnr.push(snr);
                }
                Err(unfit) => {
                    let reason = Skip::because(format!("{name:?}: {unfit}"));
                    let nodes = store.readers.iter().map(|s| s.reader.node);
                    changes.skipped.extend(nodes.map(|node| (path.clone(), node, reason.clone())));
                }
            }
        }
        sqnr.sort_by(f64::total_cmp);
        if let (Some(worst), Some(median)) = (sqnr.first(), sqnr.get(sqnr.len() / 2)) {
            let (count, levels) = (sqnr.len(), self.levels.count());
            changes.notes.push(format!(
                "{count} weights in {levels} levels; signal-to-noise ratio {worst:.1} dB at worst, {median:.1} dB median"
            ));
        }
        Ok(changes)
    }
}

impl CodebookWeights {
    /// One scale for each output of the first reader; the others read the same numbers.
    fn store(&self, weight: sites::Weight) -> Option<Store> {
        let outer = match weight.readers.first()?.kind {
            sites::Kind::Product { outer } | sites::Kind::Channels { outer } => outer,
            sites::Kind::Rows | sites::Kind::Entries => return None,
        };
        let rows = weight.tensor.dims().get(outer).copied().filter(|&r| r > 0)?;
        let block = usize::try_from(weight.tensor.elements() / rows).ok()?.max(1);
        let format = Format { levels: self.levels.count(), block, symmetric: true, scale: weight.tensor.dtype() };
        let site = |reader| Site { reader, form: Form::Channels, transposed: false, rank: None };
        let readers = weight.readers.into_iter().map(site).collect();
        Some(Store { value: weight.value, tensor: weight.tensor, outer, format, readers })
    }

    fn encode(&self, store: &Store, second: Option<&Second>) -> Result<(Blocks, f64), Unfit> {
        let matrix = Matrix::of(&store.tensor, store.outer)?;
        let blocks = algorithm::quantize(&matrix, store.format, self.algorithm, second);
        let sqnr = blocks.sqnr(&matrix);
        Ok((blocks, sqnr))
    }

    fn patch(&self, graph: &Graph, store: &Store, blocks: &Blocks) -> Result<Patch, TensorError> {
        let name = graph.name_of(store.value);
        let (dims, dtype) = (store.tensor.dims(), store.format.scale);
        let levels = self.levels.count();
        let per_byte = self.levels.per_byte(store.tensor.elements());
        let codes = move_axis(blocks.codes.clone(), Sides::of(&store.tensor, store.outer), true);
        let byte = |codes: &[u8]| codes.iter().rev().fold(0u16, |byte, &c| byte * levels + u16::from(c)) as u8;
        let bytes: Vec<u8> = codes.chunks(per_byte as usize).map(byte).collect();

        let mut patch = Patch::new(Numerics::Lossy, format!("{name:?} in {levels} levels"));
        let shape: Dims = [bytes.len() as u64].into_iter().collect();
        let packed = patch.constant(format!("{name}_codes"), Tensor::from_raw(DType::U8, shape, bytes.into())?);
        let entries = u32::from(levels).pow(per_byte);
        let step = 2.0 / f64::from(levels - 1);
        let digit = |e: u32, i: u32| f64::from(e / u32::from(levels).pow(i) % u32::from(levels)) * step - 1.0;
        let book: Vec<f64> = (0..entries).flat_map(|e| (0..per_byte).map(move |i| digit(e, i))).collect();
        let book = Tensor::from_f64_as(dtype, [u64::from(entries), u64::from(per_byte)].as_slice(), &book)?;
        let book = patch.constant("codebook", book);
        // Two levels lie half a step on either side of zero.
        let half = if levels == 2 { 0.5 } else { 1.0 };
        let scales: Vec<f64> = blocks.grids.iter().map(|g| f64::from(g.scale) * half).collect();
        let spread: Dims = (0..dims.len()).map(|a| if a == store.outer { blocks.rows as u64 } else { 1 }).collect();
        let scales = patch.constant(format!("{name}_scale"), Tensor::from_f64_as(dtype, spread, &scales)?);
        let shape: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        let shape = patch.constant(format!("{name}_shape"), Tensor::ints(&shape));

        // Indices of a Gather have 32 bits at least.
        let indices = patch
            .node(OpName::onnx("Cast"), [packed])
            .attrs(Attrs::new().with("to", i64::from(DType::I32.code())))
            .output(format!("{name}_indices"), None);
        let numbers = patch.node(OpName::onnx("Gather"), [book, indices]).output(format!("{name}_levels"), None);
        let numbers = patch.node(OpName::onnx("Reshape"), [numbers, shape]).output(format!("{name}_shaped"), None);
        let ty = Type::tensor(dtype, dims.iter().map(|&d| Dim::from(d)));
        let weight = patch.node(OpName::onnx("Mul"), [numbers, scales]).output(format!("{name}_decoded"), Some(ty));
        for site in &store.readers {
            patch.set_input(site.reader.node, site.reader.slot, Some(weight));
        }
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_with, refusals};

    fn small(levels: Levels) -> CodebookWeights {
        CodebookWeights { levels, min_elements: 1, ..CodebookWeights::default() }
    }

    #[test]
    fn a_product() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[3,4] x) => (float[3,2] y) <float[4,2] w> { y = MatMul (x, w) }"#;
        insta::assert_snapshot!(check_with(small(Levels::Ternary), text), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[3,4] x) => (float[3,2] y)
        <
          uint8[8] w_codes = {2, 2, 0, 1, 2, 1, 2, 1},
          float[3,1] codebook = {-1.0, 0.0, 1.0},
          float[1,2] w_scale = {0.61157846, 0.69362646},
          int64[2] w_shape = {4, 2}
        >
        {
          w_indices = Cast <to = 6> (w_codes)
          w_levels = Gather (codebook, w_indices)
          w_shaped = Reshape (w_levels, w_shape)
          w_decoded = Mul (w_shaped, w_scale)
          y = MatMul (x, w_decoded)
        }
        "#);
        insta::assert_snapshot!(check_with(small(Levels::Binary), text), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[3,4] x) => (float[3,2] y)
        <
          uint8[8] w_codes = {1, 1, 0, 0, 1, 1, 1, 0},
          float[2,1] codebook = {-1.0, 1.0},
          float[1,2] w_scale = {0.61157846, 0.28410658},
          int64[2] w_shape = {4, 2}
        >
        {
          w_indices = Cast <to = 6> (w_codes)
          w_levels = Gather (codebook, w_indices)
          w_shaped = Reshape (w_levels, w_shape)
          w_decoded = Mul (w_shaped, w_scale)
          y = MatMul (x, w_decoded)
        }
        "#);
    }

    #[test]
    fn a_convolution() {
        insta::assert_snapshot!(check_with(
            small(Levels::Ternary),
            r#"<ir_version: 8, opset_import: ["" : 13]>
            g (float[1,2,8,8] x) => (float[1,5,8,8] y) <float[5,2,1,1] w> { y = Conv (x, w) }"#
        ), @r#"
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[1,2,8,8] x) => (float[1,5,8,8] y)
        <
          uint8[10] w_codes = {2, 2, 0, 1, 2, 1, 2, 0, 0, 2},
          float[3,1] codebook = {-1.0, 0.0, 1.0},
          float[5,1,1,1] w_scale = {1.0480275, 0.8553353, 0.9034754, 0.4226737, 0.3478368},
          int64[4] w_shape = {5, 2, 1, 1}
        >
        {
          w_indices = Cast <to = 6> (w_codes)
          w_levels = Gather (codebook, w_indices)
          w_shaped = Reshape (w_levels, w_shape)
          w_decoded = Mul (w_shaped, w_scale)
          y = Conv (x, w_decoded)
        }
        "#);
    }

    #[test]
    fn the_numbers_are_signs_times_the_mean_size() {
        let tensor = Tensor::from_f32([2, 4].as_slice(), &[1.0, -2.0, 3.0, 4.0, -1.0, -1.0, -1.0, 1.0]).unwrap();
        let matrix = Matrix::of(&tensor, 0).unwrap();
        let format = Format { levels: 2, block: 4, symmetric: true, scale: DType::F32 };
        let blocks = algorithm::quantize(&matrix, format, Algorithm::Mse, None);
        let rows: Vec<f32> = (0..2).flat_map(|r| blocks.row(r).collect::<Vec<_>>()).collect();
        assert_eq!(rows, [2.5, -2.5, 2.5, 2.5, -1.0, -1.0, -1.0, 1.0]);
    }

    #[test]
    fn a_byte_holds_as_much_as_pays() {
        assert_eq!([64, 1 << 20, 7 << 20].map(|n| Levels::Binary.per_byte(n)), [2, 8, 8]);
        assert_eq!([64, 5 << 20, 7 << 20].map(|n| Levels::Ternary.per_byte(n)), [1, 5, 4]);
    }

    #[test]
    fn tables_stay() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (int64[2] i) => (float[2,64] y) <float[64,64] t> { y = Gather (t, i) }"#;
        insta::assert_snapshot!(refusals::<CodebookWeights>(text).join("\n"), @"`tables` is off");
    }
}
