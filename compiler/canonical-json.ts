// JSON with one spelling per value: keys sorted by code point at every level, no whitespace. Digests are taken over it.
import { assert } from './errors.ts'

export type CanonicalValue =
  | null
  | boolean
  | number
  | string
  | readonly CanonicalValue[]
  | { readonly [key: string]: CanonicalValue | undefined }

/** `undefined` members are left out, as `JSON.stringify` does. Numbers must be finite. */
export function canonicalJson(value: CanonicalValue): string {
  if (typeof value === 'number') assert(Number.isFinite(value), `canonical JSON cannot hold ${value}`)
  if (value === null || typeof value !== 'object') return JSON.stringify(value)
  if (isList(value)) return `[${value.map(canonicalJson).join(',')}]`
  const members = Object.entries(value)
    .filter((member): member is [string, CanonicalValue] => member[1] !== undefined)
    .sort(([a], [b]) => compareCodePoints(a, b))
    .map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`)
  return `{${members.join(',')}}`
}

/** Order of strings by code point; `<` on strings compares UTF-16 units, which differs above U+FFFF. */
export function compareCodePoints(a: string, b: string): number {
  const left = [...a]
  const right = [...b]
  const shorter = Math.min(left.length, right.length)
  for (let i = 0; i < shorter; i += 1) {
    const difference = (left[i]?.codePointAt(0) ?? 0) - (right[i]?.codePointAt(0) ?? 0)
    if (difference !== 0) return difference
  }
  return left.length - right.length
}

function isList(value: object): value is readonly CanonicalValue[] {
  return Array.isArray(value)
}
