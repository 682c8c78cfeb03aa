//! From Burn's running variance to PyTorch's: the biased one to the unbiased one.

use std::error::Error;

use crate::vectors::Description;

/// The number of values that a channel of a BatchNorm layer's input has in one image: height x width.
pub fn values_per_image(description: &Description, layer: &str) -> Result<usize, Box<dyn Error>> {
    if let Some(pixels) = description.pixels.get(layer) {
        return Ok(*pixels);
    }
    let name = description.model.as_str();
    let parts: Vec<&str> = layer.split('.').collect();
    let side = match parts.as_slice() {
        ["features", position] => side_in_vgg(description, position.parse()?),
        [_last] => 8,
        [stage, block, norm] => {
            let side = match *stage {
                "layer1" => 32,
                "layer2" => 16,
                _ => 8,
            };
            // In a stage's first block, the layers up to the convolution that has the stride see the larger image.
            let depth = name.strip_prefix("preresnet").map(str::parse::<usize>);
            let before_stride = match depth {
                Some(Ok(depth)) if depth < 44 => ["bn1"].as_slice(),
                // Bottleneck blocks and wide blocks have the stride in the second convolution.
                _ => ["bn1", "bn2"].as_slice(),
            };
            let larger = *stage != "layer1" && *block == "0" && before_stride.contains(norm);
            if larger { 2 * side } else { side }
        }
        _ => return Err(format!("{name} has no BatchNorm {layer}").into()),
    };
    Ok(side * side)
}

/// The height and width at position `position`, after all earlier pooling layers. A pooling layer has no entries, and is found
/// where there are more positions than the three of a convolution, a BatchNorm and a ReLU.
fn side_in_vgg(description: &Description, position: usize) -> usize {
    let mut convolutions: Vec<usize> = description
        .entries
        .iter()
        .filter(|entry| entry.shape.len() == 4)
        .filter_map(|entry| entry.name.split('.').nth(1)?.parse().ok())
        .filter(|convolution| *convolution < position)
        .collect();
    convolutions.sort_unstable();
    let pools = convolutions.windows(2).filter(|pair| pair[1] - pair[0] > 3);
    32 >> pools.count()
}

/// The unbiased variance of `count` values over their biased one.
pub fn correction(count: usize) -> f64 {
    count as f64 / (count - 1) as f64
}
