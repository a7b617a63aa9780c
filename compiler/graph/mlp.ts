// The second half of a decoder's layer.
import type { Decoder } from '../checkpoint/decoder.ts'
import { layoutOf } from '../checkpoint/families/families.ts'
import type { GraphBuilder } from './builder.ts'
import type { Form } from './form.ts'
import { writeTogether } from './together.ts'

/** down(act(gate(x)) · up(x)), or down(act(up(x))) without a gate. */
export function writeMlp(builder: GraphBuilder, config: Decoder, layer: number, x: string, form: Form): string {
  const layout = layoutOf(config.architecture)
  const at = `layers.${layer}.mlp`
  const parts = writeTogether(builder, config, layer, layout.mlp, x, form)
  const [gate, up] =
    layout.gated && parts.length === 1 ? builder.split(`${at}.halves`, [parts[0] as string], -1) : parts
  const active = writeActivation(builder, layout.activation, at, gate as string)
  const gated = up === undefined ? active : builder.node('Mul', `${at}.gated`, [active, up])
  const [down = ''] = writeTogether(builder, config, layer, [layout.down], gated, form)
  return down
}

function writeActivation(builder: GraphBuilder, kind: 'silu' | 'gelu_tanh', at: string, x: string): string {
  if (kind === 'gelu_tanh') return builder.node('Gelu', `${at}.gelu`, [x], { approximate: { string: 'tanh' } })
  return builder.node('Mul', `${at}.silu`, [x, builder.node('Sigmoid', `${at}.sigmoid`, [x])])
}
