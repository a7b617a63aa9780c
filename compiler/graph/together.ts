// The linears of a layer that read one value.
import type { Decoder } from '../checkpoint/decoder.ts'
import { layoutOf } from '../checkpoint/families/families.ts'
import type { GraphBuilder } from './builder.ts'
import type { Form } from './form.ts'
import { canJoin, writeJoined, writeLinear } from './linear.ts'

/** `names`: as the layout spells them. One product of all of them, side by side, where they are joined; one each otherwise. */
export function writeTogether(
  builder: GraphBuilder,
  { architecture, traits }: Decoder,
  layer: number,
  names: readonly string[],
  x: string,
  { rows, joined }: Pick<Form, 'rows' | 'joined'>,
): readonly string[] {
  const modules = names.map((name) => `${layoutOf(architecture).layer(layer)}.${name}`)
  const biased = names.map((name) => traits?.biases?.includes(name) === true)
  if (joined && canJoin(builder, modules) && new Set(biased).size === 1) {
    return [writeJoined(builder, modules, x, rows, biased[0])]
  }
  return modules.map((module, at) => writeLinear(builder, module, x, rows, biased[at]))
}
