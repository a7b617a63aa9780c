// The adapter's paths against the base's names. They are the same where both came from one class of model; where one is
// the model inside the other (LlamaModel, LlamaForCausalLM), one name comes before all paths of one side, as
// transformers itself allows for when it loads a checkpoint.
import { compareCodePoints } from '../canonical-json.ts'
import { type Problems, quote } from '../errors.ts'
import type { BaseTensors } from './change.ts'

export interface Location {
  /** A tensor or module, as the adapter spells it → as the base does. */
  toBase(name: string): string
  /** `undefined` for what the adapter's model does not have. */
  toAdapter(name: string): string | undefined
}

const SAME: Location = { toBase: (name) => name, toAdapter: (name) => name }

/** `names`: tensors that must be in the base. Where no rule finds them all, their names stand as they are. */
export function locate(names: readonly string[], base: BaseTensors, about: string, problems: Problems): Location {
  const [first] = names
  if (first === undefined || names.some((name) => base.has(name))) return SAME
  const outer = first.slice(0, first.indexOf('.') + 1)
  if (outer !== '' && names.every((name) => name.startsWith(outer) && base.has(name.slice(outer.length)))) {
    return { toBase: (name) => withoutPrefix(name, outer) ?? name, toAdapter: (name) => `${outer}${name}` }
  }
  const inner = [...base.keys()]
    .filter((name) => name.endsWith(`.${first}`))
    .map((name) => name.slice(0, name.length - first.length))
    .filter((prefix) => names.every((name) => base.has(`${prefix}${name}`)))
    .sort(compareCodePoints)
  if (inner.length > 1) {
    problems.add(
      'adapter-base',
      `${about}: its modules could be those below ${inner.map(quote).join(' or ')} of the base; give the base that the ` +
        'adapter was trained on, saved from the same class of model',
    )
  }
  const [prefix] = inner
  if (prefix === undefined) return SAME
  return { toBase: (name) => `${prefix}${name}`, toAdapter: (name) => withoutPrefix(name, prefix) }
}

function withoutPrefix(name: string, prefix: string): string | undefined {
  return name.startsWith(prefix) ? name.slice(prefix.length) : undefined
}
