//! The quantized form of products that share activations or weights.

use std::collections::BTreeMap;

use planish_ir::{DType, Dim, Graph, Numerics, OpName, Patch, Ref, Tensor, Type, ValueId};

use super::{
    Columns,
    sites::{Bias, Form, Site},
};
use crate::Target;

const MICROSOFT: &str = "com.microsoft";

/// Quantizes each activation once, and lets the products read it.
pub(super) fn patch(
    graph: &Graph,
    opset: i64,
    target: Target,
    sites: &[&Site],
    columns: &BTreeMap<ValueId, Columns>,
) -> Patch {
    let names: Vec<String> = sites.iter().map(|s| format!("{:?}", graph.name_of(s.weight))).collect();
    let mut emit = Emit {
        graph,
        opset,
        patch: Patch::new(Numerics::Lossy, format!("{} in int8, activations dynamic", names.join(", "))),
        activations: BTreeMap::new(),
        made: BTreeMap::new(),
        weights: BTreeMap::new(),
    };
    for site in sites {
        let Some(c) = columns.get(&site.weight) else { continue };
        let y = match target {
            Target::OnnxruntimeCpu => emit.fused(site, c),
            _ => emit.standard(site, c),
        };
        emit.patch.replace(site.output, y);
        emit.made.insert(site.output, y);
    }
    if target == Target::OnnxruntimeCpu {
        emit.patch.import(MICROSOFT, 1);
    }
    emit.patch
}

struct Emit<'a> {
    graph: &'a Graph,
    opset: i64,
    patch: Patch,
    /// Codes, scale and zero point.
    activations: BTreeMap<ValueId, [Ref; 3]>,
    /// What stands for the results of products. Readers that a patch adds are not told by [`Patch::replace`].
    made: BTreeMap<ValueId, Ref>,
    /// Codes and scales.
    weights: BTreeMap<(ValueId, u32), [Ref; 2]>,
}

impl Emit<'_> {
    fn activation(&mut self, value: ValueId) -> [Ref; 3] {
        if let Some(&known) = self.activations.get(&value) {
            return known;
        }
        let name = self.graph.name_of(value);
        let shape = self.graph.ty(value).and_then(Type::as_tensor).and_then(|t| t.shape.clone());
        let scalar = |dtype| Some(Type::tensor(dtype, []));
        let outputs = vec![
            (format!("{name}_quantized"), shape.map(|s| Type::tensor(DType::U8, s))),
            (format!("{name}_scale"), scalar(DType::F32)),
            (format!("{name}_zero_point"), scalar(DType::U8)),
        ];
        let input = self.made.get(&value).copied().unwrap_or(value.into());
        let made = self.patch.node(OpName::onnx("DynamicQuantizeLinear"), [input]).outputs(outputs);
        let made = [made[0], made[1], made[2]];
        self.activations.insert(value, made);
        made
    }

    fn weight(&mut self, site: &Site, columns: &Columns) -> [Ref; 2] {
        let key = (site.weight, site.alpha.to_bits());
        if let Some(&known) = self.weights.get(&key) {
            return known;
        }
        let name = self.graph.name_of(site.weight);
        // Another factor shares the codes.
        let codes =
            self.weights.range((site.weight, 0)..).next().filter(|((w, _), _)| *w == site.weight).map(|(_, r)| r[0]);
        let codes = codes.unwrap_or_else(|| self.patch.constant(format!("{name}_int8"), columns.codes.clone()));
        let scaled = || {
            let values: Vec<f32> = columns.scales.iter_f32().ok()?.map(|s| s * site.alpha).collect();
            Tensor::from_f32(columns.scales.dims(), &values).ok()
        };
        let scales = scaled().unwrap_or_else(|| columns.scales.clone());
        let made = [codes, self.patch.constant(format!("{name}_scale"), scales)];
        self.weights.insert(key, made);
        made
    }

    fn bias(&mut self, site: &Site) -> Option<Ref> {
        Some(match site.bias.clone()? {
            Bias::Value(v) => v.into(),
            Bias::Constant(t) => self.patch.constant(format!("{}_bias", self.graph.name_of(site.weight)), t),
        })
    }

    /// By the operators that ONNX Runtime's kernels are for.
    fn fused(&mut self, site: &Site, columns: &Columns) -> Ref {
        let [codes, scale, zero] = self.activation(site.activation);
        let [weight, scales] = self.weight(site, columns);
        let mut inputs = vec![Some(codes), Some(weight), Some(scale), Some(scales), Some(zero)];
        if let Some(bias) = self.bias(site) {
            inputs.extend([None, Some(bias)]);
        }
        let name = self.graph.name_of(if site.sum.is_some() { site.product } else { site.output });
        let op = OpName::new(MICROSOFT, "MatMulIntegerToFloat");
        let ty = self.graph.ty(site.product).cloned();
        let scores = match &site.form {
            Form::Product => {
                let y = self.patch.node(op, inputs).in_place_of(site.node).output(name, ty);
                return self.rest(site, y);
            }
            Form::Windows(windows) => {
                let unfolded = windows.unfold(&mut self.patch, codes, zero, &name);
                let inputs = [Some(unfolded)].into_iter().chain(inputs.into_iter().skip(1));
                let y = self.patch.node(op, inputs).output(format!("{name}_product"), None);
                let transpose = self.patch.node(OpName::onnx("Transpose"), [y]).attr("perm", windows.back());
                return transpose.in_place_of(site.node).output(name, ty);
            }
            Form::Attention { scores } => *scores,
        };
        let width = columns.codes.dims().get(1).copied().unwrap_or(0) / 3;
        let parts = |size: u64| {
            let rows = ty.as_ref()?.as_tensor()?.shape.as_ref()?.split_last()?.1.to_vec();
            Some(Type::tensor(DType::F32, rows.into_iter().chain([Dim::from(size)])))
        };
        let all = self.patch.node(op, inputs).output(format!("{name}_projected"), parts(width * 3));
        let each = i64::try_from(width).unwrap_or(0);
        let sizes = self.patch.constant(format!("{name}_sizes"), Tensor::ints(&[each; 3]));
        debug_assert!(self.opset >= 13);
        let outputs = ["queries", "keys", "values"].map(|part| (format!("{name}_{part}"), parts(width)));
        let split = self.patch.node(OpName::onnx("Split"), [all, sizes]).attr("axis", -1).outputs(outputs.to_vec());
        let mut inputs: Vec<Option<Ref>> = split.into_iter().map(Some).collect();
        if let Some(scores) = scores {
            inputs.extend([None, None, Some(scores.into())]);
        }
        let attrs = self.graph.node(site.node).map(|n| n.attrs.clone()).unwrap_or_default();
        let op = OpName::new(MICROSOFT, "MultiHeadAttention");
        self.patch.node(op, inputs).attrs(attrs).in_place_of(site.node).output(name, ty)
    }

    /// Adds what a Sum adds besides the bias.
    fn rest(&mut self, site: &Site, y: Ref) -> Ref {
        let Some((sum, rest)) = &site.sum else { return y };
        let rest = rest.iter().map(|v| self.made.get(v).copied().unwrap_or((*v).into()));
        let operands: Vec<Ref> = [y].into_iter().chain(rest).collect();
        let op = OpName::onnx(if operands.len() == 2 { "Add" } else { "Sum" });
        let ty = self.graph.ty(site.output).cloned();
        self.patch.node(op, operands).in_place_of(*sum).output(self.graph.name_of(site.output), ty)
    }

    /// By operators of ONNX. A bias that stands behind the product stays there.
    fn standard(&mut self, site: &Site, columns: &Columns) -> Ref {
        let [codes, scale, zero] = self.activation(site.activation);
        let [weight, scales] = self.weight(site, columns);
        let name = self.graph.name_of(site.output);
        let ty = self.graph.ty(site.output).cloned();
        let shape = ty.as_ref().and_then(Type::as_tensor).and_then(|t| t.shape.clone());
        let integers = shape.map(|s| Type::tensor(DType::I32, s));
        let product = self
            .patch
            .node(OpName::onnx("MatMulInteger"), [codes, weight, zero])
            .output(format!("{name}_integer"), integers);
        let cast = OpName::onnx("Cast");
        let product = self
            .patch
            .node(cast, [product])
            .attr("to", i64::from(DType::F32.code()))
            .output(format!("{name}_sum"), ty.clone());
        let unit = Some(Type::tensor(DType::F32, columns.scales.dims().iter().map(|&d| Dim::from(d))));
        let unit = self.patch.node(OpName::onnx("Mul"), [scale, scales]).output(format!("{name}_unit"), unit);
        let mul = OpName::onnx("Mul");
        match self.bias(site) {
            Some(bias) => {
                let scaled = self.patch.node(mul, [product, unit]).output(format!("{name}_scaled"), ty.clone());
                self.patch.node(OpName::onnx("Add"), [scaled, bias]).in_place_of(site.node).output(name, ty)
            }
            None => self.patch.node(mul, [product, unit]).in_place_of(site.node).output(name, ty),
        }
    }
}
