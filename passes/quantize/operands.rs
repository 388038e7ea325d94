//! How the operands of operators on quantized operands lie.

/// At which slots values begin that a scale and a zero point follow.
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    /// The operator in ONNX.
    pub(crate) float: &'static str,
    pub(crate) operands: &'static [usize],
    /// Where scale and zero point of the result begin.
    pub(crate) result: usize,
    /// The operand whose scales may be those of channels, and their axis.
    pub(crate) channels: Option<(usize, i64)>,
    pub(crate) bias: Option<usize>,
}

const fn layout(name: &'static str, float: &'static str, operands: &'static [usize], result: usize) -> Layout {
    Layout { name, float, operands, result, channels: None, bias: None }
}

/// All but QLinearConcat, whose operands follow the scale and zero point of the result.
pub(crate) const LAYOUTS: &[Layout] = &[
    layout("QLinearAdd", "Add", &[0, 3], 6),
    layout("QLinearAveragePool", "AveragePool", &[0], 3),
    Layout { channels: Some((3, 0)), bias: Some(8), ..layout("QLinearConv", "Conv", &[0, 3], 6) },
    layout("QLinearGlobalAveragePool", "GlobalAveragePool", &[0], 3),
    layout("QLinearLeakyRelu", "LeakyRelu", &[0], 3),
    Layout { channels: Some((3, -1)), ..layout("QLinearMatMul", "MatMul", &[0, 3], 6) },
    layout("QLinearMul", "Mul", &[0, 3], 6),
    layout("QLinearSigmoid", "Sigmoid", &[0], 3),
    layout("QLinearSoftmax", "Softmax", &[0], 3),
    layout("QLinearWhere", "Where", &[1, 4], 7),
    Layout { channels: Some((3, 1)), bias: Some(6), ..layout("QGemm", "Gemm", &[0, 3], 7) },
];

impl Layout {
    /// The axis of the scales of the operand at a slot, if they may be those of channels. `transposed` says whether a Gemm transposes its
    /// second operand.
    pub(crate) fn axis(&self, slot: usize, transposed: bool) -> Option<i64> {
        let (_, axis) = self.channels.filter(|(operand, _)| *operand == slot)?;
        Some(if self.name == "QGemm" && transposed { 0 } else { axis })
    }
}
