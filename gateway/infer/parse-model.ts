// The `model` of a request as it is spelt: a public name, or a mix of them such as `triage*0.7 + dates*0.3`.
import { MAX_MIX_PARTS } from '../../gpu-backend/contract.ts'
import { badRequest } from '../errors.ts'

/** No `*`, `+` or space, so that a mix is never a name; no slash, so that `/v1/models/:model` can name each. */
const NAME = '[A-Za-z0-9][A-Za-z0-9._:-]{0,127}'
export const MODEL_NAME = new RegExp(`^${NAME}$`)

/** Six decimals: sums of weights are exact to that, and none is printed with an exponent. */
export const WEIGHT_STEPS = 1_000_000
const MAX_WEIGHT = 100
const PART = new RegExp(`^ *(${NAME}) *(?:\\* *(-?\\d{1,3}(?:\\.\\d{1,6})?) *)?$`)
const FORM = "a mix is written 'name*weight + name*weight'"

export interface NamedPart {
  readonly name: string
  readonly weight: number
}

export interface AskedModel {
  /** As the caller asked, in one spelling: `triage*0.7+dates*0.3`, a weight of 1 left out. */
  readonly name: string
  /** Null: `name` is a public name. */
  readonly mix: readonly NamedPart[] | null
}

/** Throws 400 `invalid_mix` by the spelling alone: what exists plays no part. */
export function parseModel(text: string): AskedModel {
  if (!/[*+]/.test(text)) return { name: text, mix: null }
  const mix = text.split('+').map(parsePart)
  if (mix.length > MAX_MIX_PARTS) throw refused(`it has ${mix.length} parts; ${MAX_MIX_PARTS} are the most`)
  const twice = mix.find(({ name }, at) => mix.findIndex((other) => other.name === name) < at)
  if (twice !== undefined) throw refused(`'${twice.name}' is named twice; add up its weights`)
  const name = mix.map((part) => (part.weight === 1 ? part.name : `${part.name}*${part.weight}`)).join('+')
  // `a*1` is `a`, whatever `a` is.
  return mix.length === 1 && mix[0]?.weight === 1 ? { name, mix: null } : { name, mix }
}

function parsePart(text: string): NamedPart {
  const [, name, digits = '1'] = PART.exec(text) ?? []
  if (name === undefined) {
    throw refused(`${FORM}, each weight a decimal number with at most six digits after the point`)
  }
  const weight = Number(digits)
  if (weight === 0 || Math.abs(weight) > MAX_WEIGHT) {
    throw refused(`the weight of '${name}' is ${digits}; it must not be 0 nor beyond ±${MAX_WEIGHT}`)
  }
  return { name, weight }
}

const refused = (what: string) => badRequest(`Invalid parameter 'model': ${what}.`, 'invalid_mix', 'model')
