// The norms of a decoder.
import type { Decoder } from '../checkpoint/decoder.ts'
import { layoutOf } from '../checkpoint/families/families.ts'
import type { GraphBuilder } from './builder.ts'

/**
 * w · x / √(mean(x²) + ε), in the shape that ONNX Runtime fuses into one kernel when it loads the graph; by 1 + w, or with
 * the mean taken off and a bias added, where the family's norms are such. `module`: the norm's path.
 */
export function writeNorm(builder: GraphBuilder, config: Decoder, at: string, module: string, x: string): string {
  const { norm } = layoutOf(config.architecture)
  const weight = builder.weight(`${module}.weight`)
  if (norm === 'layer') {
    return builder.node('LayerNormalization', at, [x, weight, builder.weight(`${module}.bias`)], {
      axis: -1,
      epsilon: { float: config.rmsNormEps },
    })
  }
  const squared = builder.node('Pow', `${at}.squared`, [x, builder.float(2)])
  const mean = builder.node('ReduceMean', `${at}.mean`, [squared, builder.ints(-1)], { keepdims: 1 })
  const shifted = builder.node('Add', `${at}.shifted`, [mean, builder.float(config.rmsNormEps)])
  const root = builder.node('Sqrt', `${at}.root`, [shifted])
  const unit = builder.node('Div', `${at}.unit`, [x, root])
  const scale = norm === 'rms' ? weight : builder.node('Add', `${at}.one_plus`, [weight, builder.float(1)])
  return builder.node('Mul', `${at}.scaled`, [unit, scale])
}
