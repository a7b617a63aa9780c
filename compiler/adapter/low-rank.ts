// lora_A and lora_B of one module → its low-rank change, and lora_B.bias → what is added to its bias.
import { quote } from '../errors.ts'
import { isFloatDtype } from '../safetensors/dtypes.ts'
import type { FloatTensorSource } from '../safetensors/stream.ts'
import type { Change } from './change.ts'
import { checkRank, checkShape, type Pair, type Sides, sidesOf } from './check-factors.ts'
import { type Dialect, type Reading, readFinite } from './reading.ts'
import { reportNoModule } from './report-module.ts'
import type { ModuleTensors } from './tensor-names.ts'

/** Empty, and problems, where the module does not fit. `module`: as the adapter spells it. */
export async function readLowRank(
  module: string,
  tensors: ModuleTensors,
  dialect: Dialect,
  reading: Reading,
): Promise<Change[]> {
  if (!isWhole(module, tensors, dialect, reading)) return []
  const target = reading.location.toBase(module)
  const weight = reading.base.get(`${target}.weight`)
  if (weight === undefined) {
    reportNoModule(module, target, reading)
    return []
  }
  const { about, problems } = reading
  if (!isFloatDtype(weight.dtype)) {
    problems.add(
      'tensor-dtype',
      `${about}: the base stores ${quote(`${target}.weight`)} as ${weight.dtype}; give the base in F32, F16 or BF16`,
    )
    return []
  }
  const sides = sidesOf(tensors, dialect.storesTransposed)
  const r = checkRank(module, sides, dialect, reading)
  const transposed = checkShape(module, target, weight.shape, tensors, sides, dialect, reading)
  if (r === undefined || transposed === undefined) return []
  return readFactors(module, target, tensors, { ...sides, r, transposed }, dialect, reading)
}

async function readFactors(
  module: string,
  target: string,
  tensors: Pair,
  { in: inSides, out, r, transposed }: Sides & { r: number; transposed: boolean },
  dialect: Dialect,
  reading: Reading,
): Promise<Change[]> {
  const { A, B, magnitude, bias } = tensors
  const scaling = await dialect.scalingOf(module, r, tensors)
  const inSize = inSides.reduce((product, size) => product * size, 1)
  const a = await readFinite(A, `${module}.lora_A`, reading)
  const b = await readFinite(B, `${module}.lora_B`, reading)
  const change: Change = {
    kind: 'low-rank',
    tensor: `${target}.weight`,
    A: dialect.storesTransposed ? transpose(a, inSize, r) : a,
    B: dialect.storesTransposed ? transpose(b, r, out) : b,
    r,
    in: inSize,
    out,
    scaling,
    transposed,
    ...(magnitude === undefined
      ? {}
      : { magnitude: await readVector(magnitude, out, `${module}.lora_magnitude_vector`, reading) }),
    sources: [A, B, magnitude, tensors.alpha].flatMap((tensor) => tensor?.name ?? []),
  }
  if (bias === undefined) return [change]
  const { about, problems, base } = reading
  if (base.get(`${target}.bias`)?.shape.join() !== String(out)) {
    problems.add(
      'adapter-base',
      `${about}: ${module} has lora_B.bias but the base has no bias of ${out} there to add it to; re-train with lora_bias=False`,
    )
  }
  const value = await readVector(bias, out, `${module}.lora_B.bias`, reading)
  return [change, { kind: 'add', tensor: `${target}.bias`, value, scaling, sources: [bias.name] }]
}

/** Both factors, and what the config promises, no more and no less. */
function isWhole(
  module: string,
  tensors: ModuleTensors,
  { useDora, loraBias }: Dialect,
  { about, problems }: Reading,
): tensors is Pair {
  const { A, B, magnitude, bias } = tensors
  if (A === undefined || B === undefined) {
    const found = A !== undefined ? 'lora_A' : B !== undefined ? 'lora_B' : 'a vector'
    const lacking = A === undefined ? (B === undefined ? 'lora_A and lora_B' : 'lora_A') : 'lora_B'
    problems.add('adapter-pair', `${about}: ${module} has ${found} but no ${lacking}; re-export the adapter`)
    return false
  }
  const extras: readonly (readonly [string, boolean, string, boolean])[] = [
    ['lora_magnitude_vector', magnitude !== undefined, 'use_dora', useDora],
    ['lora_B.bias', bias !== undefined, 'lora_bias', loraBias && tensors.isEmbedding !== true],
  ]
  const wrong = extras.filter(([, isThere, , isPromised]) => isThere !== isPromised)
  for (const [name, isThere, key] of wrong) {
    problems.add(
      'adapter-pair',
      `${about}: ${module} has ${isThere ? '' : 'no '}${name} but the config says ${key} is ${!isThere}; re-export the adapter`,
    )
  }
  return wrong.length === 0
}

/** Of `length` values, whatever shape they are stored in. */
async function readVector(
  tensor: FloatTensorSource,
  length: number,
  what: string,
  reading: Reading,
): Promise<Float32Array> {
  const values = await readFinite(tensor, what, reading)
  if (values.length !== length) {
    reading.problems.add(
      'tensor-shape',
      `${reading.about}: ${what} is [${tensor.shape}] but the module has ${length} outputs; re-export the adapter`,
    )
  }
  return values
}

/** [rows, columns] → [columns, rows], row-major. */
export function transpose(values: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length)
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      result[column * rows + row] = values[row * columns + column] as number
    }
  }
  return result
}
