// How a linear's weight is stored: [out, in] by nn.Linear, [in, out] by Conv1D. PEFT knows the class; here the shapes
// tell, and where a weight is square, the other linears of the base do. fan_in_fan_out is the last resort: PEFT writes
// what was true of the last module that it visited.
import type { BaseTensors } from './change.ts'

/** `undefined` where it cannot be told. `module`: in the base; its weight is square. */
export function isSquareTransposed(module: string, base: BaseTensors, fanInFanOut: boolean): boolean | undefined {
  // A Conv1D always has a bias.
  if (!base.has(`${module}.bias`)) return false
  const { linear, conv1d } = votes(base)
  if (linear && conv1d) return undefined
  return linear || conv1d ? conv1d : fanInFanOut
}

/** A weight may be [in, out] only where something else says that the base has such: its bias, or the config. */
export function mayBeTransposed(module: string, out: number, base: BaseTensors, fanInFanOut: boolean): boolean {
  const bias = base.get(`${module}.bias`)
  return bias === undefined ? fanInFanOut : bias.shape.length === 1 && bias.shape[0] === out
}

const known = new WeakMap<BaseTensors, { linear: boolean; conv1d: boolean }>()

/** The length of a bias is the number of outputs: it tells which side of a weight that is not square is which. */
function votes(base: BaseTensors): { linear: boolean; conv1d: boolean } {
  const found = known.get(base) ?? { linear: false, conv1d: false }
  if (known.has(base)) return found
  for (const [name, { shape }] of base) {
    if (!name.endsWith('.weight') || shape.length !== 2 || shape[0] === shape[1]) continue
    const bias = base.get(`${name.slice(0, -'.weight'.length)}.bias`)
    if (bias?.shape.length !== 1) continue
    if (bias.shape[0] === shape[0]) found.linear = true
    else if (bias.shape[0] === shape[1]) found.conv1d = true
  }
  known.set(base, found)
  return found
}
