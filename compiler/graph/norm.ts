// The norms of a decoder.
import type { Decoder } from '../checkpoint/decoder.ts'
import { layoutOf } from '../checkpoint/families/families.ts'
import { MICROSOFT } from '../onnx/encode.ts'
import type { GraphBuilder } from './builder.ts'

/** The norm of x + y, and x + y itself; `undefined` for a norm that ONNX Runtime has no operator of. */
export function writeNormOfSum(
  builder: GraphBuilder,
  config: Decoder,
  at: string,
  module: string,
  [x, y]: readonly [string, string],
): { readonly normed: string; readonly sum: string } | undefined {
  const { norm } = layoutOf(config.architecture)
  if (norm === 'layer') return undefined
  const inputs = [x, y, writeScale(builder, at, module, norm)]
  const attributes = { epsilon: { float: config.rmsNormEps } }
  const wanted = [true, false, false, true]
  const outputs = builder.many('SkipSimplifiedLayerNormalization', at, inputs, wanted, attributes, MICROSOFT)
  return { normed: outputs[0] as string, sum: outputs[3] as string }
}

function writeScale(builder: GraphBuilder, at: string, module: string, norm: 'rms' | 'one-plus'): string {
  const weight = builder.weight(`${module}.weight`)
  return norm === 'rms' ? weight : builder.node('Add', `${at}.one_plus`, [weight, builder.float(1)])
}

/**
 * w · x / √(mean(x²) + ε), in the shape that ONNX Runtime fuses into one kernel when it loads the graph; by 1 + w, or with
 * the mean taken off and a bias added, where the family's norms are such. `module`: the norm's path.
 */
export function writeNorm(builder: GraphBuilder, config: Decoder, at: string, module: string, x: string): string {
  const { norm } = layoutOf(config.architecture)
  if (norm === 'layer') {
    const weight = builder.weight(`${module}.weight`)
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
  return builder.node('Mul', `${at}.scaled`, [unit, writeScale(builder, at, module, norm)])
}
