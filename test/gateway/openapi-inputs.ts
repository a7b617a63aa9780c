// Requests out of an OpenAPI document: valid by it, nearly valid, and hostile.
import fc from 'fast-check'
import type { Schema } from '../../gateway/reference/openapi.ts'

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json }
type Schemas = Readonly<Record<string, Schema>>

/** Values that exist or mean something, by the name of the field or parameter; and by pattern, where no name is known. */
export interface Known {
  readonly byName: Readonly<Record<string, readonly Json[]>>
  readonly byPattern: Readonly<Record<string, readonly string[]>>
}

const ODD: readonly Json[] = [
  null,
  true,
  false,
  0,
  -0,
  -1,
  1.5,
  1e308,
  -1e308,
  5e-324,
  2 ** 31,
  2 ** 53,
  2 ** 53 + 2,
  2 ** 63,
  2 ** 64,
  '',
  ' ',
  '0',
  '\u0000',
  'a\u0000b',
  '\ud800',
  'x\udfff',
  '\u202e😀é',
  '\ufeff',
  '__proto__',
  'constructor',
  'toString',
  "' OR 1=1 --",
  '"; DROP TABLE tenants; --',
  '../../../etc/passwd',
  '%00%2e%2e%2f',
  '{{7*7}}',
  'a'.repeat(3_000),
  '9'.repeat(400),
  [],
  {},
  [[]],
  [null],
  { constructor: { prototype: 1 } },
]

const hostile: fc.Arbitrary<Json> = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(...ODD) },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 40 }) },
  { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 3 }) as fc.Arbitrary<Json> },
)

/** What the schema allows, near its bounds too. */
export function validOf(schema: Schema, schemas: Schemas, known: Known, name = '', depth = 0): fc.Arbitrary<Json> {
  const again = (one: Schema, of = name) => validOf(one, schemas, known, of, depth + 1)
  const types = [schema.type ?? []].flat()
  const there = (known.byName[name] ?? []).filter((value) => types.includes(typeof value))
  const exact = exactOf()
  return there.length === 0 ? exact : fc.oneof({ weight: 5, arbitrary: fc.constantFrom(...there) }, exact)

  function exactOf(): fc.Arbitrary<Json> {
    const { $ref, enum: values, anyOf, oneOf, allOf } = schema
    if ($ref !== undefined) return again(schemas[$ref.slice($ref.lastIndexOf('/') + 1)] ?? {})
    if (values !== undefined) return fc.constantFrom(...(values as Json[]))
    const several = anyOf ?? oneOf ?? allOf
    if (several !== undefined) return fc.oneof(...several.map((one) => again(one)))
    return types.length === 0 ? hostile : fc.oneof(...types.map((type) => ofType(type)))
  }

  function ofType(type: string): fc.Arbitrary<Json> {
    if (type === 'null') return fc.constant(null)
    if (type === 'boolean') return fc.boolean()
    if (type === 'integer' || type === 'number') return numberOf(type)
    if (type === 'string') return stringOf()
    if (type === 'array') return arrayOf()
    return objectOf()
  }

  function numberOf(type: string): fc.Arbitrary<Json> {
    const min = schema.minimum ?? schema.exclusiveMinimum ?? -1_000_000
    const max = schema.maximum ?? Math.max(min, 1_000_000)
    const edges = fc.constantFrom(min, max)
    if (type === 'integer')
      return fc.oneof(
        edges,
        fc.maxSafeInteger().map((n) => min + (Math.abs(n) % (max - min + 1))),
      )
    return fc.oneof(edges, fc.double({ min, max, noNaN: true }))
  }

  function stringOf(): fc.Arbitrary<Json> {
    const { pattern, format, minLength = 0, maxLength = 20 } = schema
    if (pattern !== undefined) {
      const ids = known.byPattern[pattern] ?? []
      const fresh = fc.stringMatching(new RegExp(pattern))
      return ids.length === 0 ? fresh : fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...ids) }, fresh)
    }
    if (format === 'uuid') return fc.uuid()
    if (format === 'uri') return fc.webUrl()
    return fc.string({ unit: 'grapheme', minLength, maxLength: Math.max(minLength, Math.min(maxLength, 20)) })
  }

  function arrayOf(): fc.Arbitrary<Json> {
    if (schema.prefixItems) return fc.tuple(...schema.prefixItems.map((item) => again(item)))
    const { minItems = 0, maxItems = 4 } = schema
    return fc.array(again(schema.items ?? {}), {
      minLength: minItems,
      maxLength: Math.max(minItems, Math.min(maxItems, 4)),
    })
  }

  function objectOf(): fc.Arbitrary<Json> {
    const { properties = {}, required = [], additionalProperties } = schema
    const keys = Object.keys(properties).filter((key) => depth < 6 || required.includes(key))
    const shape = Object.fromEntries(keys.map((key) => [key, again(properties[key] ?? {}, key)]))
    const whole = fc.record(shape, { requiredKeys: required.filter((key) => keys.includes(key)) })
    if (typeof additionalProperties !== 'object') return whole
    const names = fc.oneof(
      fc.constantFrom(...((known.byName.key ?? ['a']) as string[])),
      fc.string({ minLength: 1, maxLength: 8 }).filter((text) => text !== '__proto__'),
    )
    return fc
      .tuple(whole, fc.dictionary(names, again(additionalProperties, ''), { maxKeys: 3 }))
      .map(([a, b]) => ({ ...b, ...a }))
  }
}

type Change = 'drop' | 'replace' | 'add' | 'repeat' | 'wrap'

function placesOf(value: Json): { readonly parent: { [name: string]: Json }; readonly key: string }[] {
  if (typeof value !== 'object' || value === null) return []
  const parent = value as { [name: string]: Json }
  return Object.keys(parent).flatMap((key) => [{ parent, key }, ...placesOf(parent[key] ?? null)])
}

/** One thing about a value made otherwise. */
function change(value: Json, seed: number, how: Change, odd: Json): Json {
  const copy = structuredClone(value)
  const places = placesOf(copy)
  const place = places[seed % Math.max(1, places.length)]
  if (place === undefined || typeof copy !== 'object' || copy === null) return odd
  const { parent, key } = place
  if (how === 'drop' && !Array.isArray(parent)) delete parent[key]
  else if (how === 'replace' || how === 'drop') parent[key] = odd
  else if (how === 'wrap') parent[key] = [parent[key] ?? null]
  else if (how === 'add' && !Array.isArray(copy))
    copy[typeof odd === 'string' && odd !== '__proto__' ? odd : 'extra'] = odd
  else if (Array.isArray(parent)) parent.push(...Array.from({ length: 200 }, () => structuredClone(parent[0] ?? null)))
  return copy
}

const nearly = (valid: fc.Arbitrary<Json>): fc.Arbitrary<Json> =>
  fc
    .tuple(valid, fc.nat(), fc.constantFrom<Change>('drop', 'replace', 'replace', 'add', 'repeat', 'wrap'), hostile)
    .map(([value, seed, how, odd]) => change(value, seed, how, odd))

const nested = (depth: number) => `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`
const RAW: readonly (string | Uint8Array<ArrayBuffer>)[] = [
  '',
  ' ',
  '{',
  '[]',
  'null',
  '"text"',
  '{"a":1,}',
  '{"a":1,"a":2}',
  '{"a":1,"\\u0061":2}',
  '{"__proto__":{"admin":true}}',
  '{"a":NaN}',
  '{"a":1e999}',
  '\ufeff{}',
  nested(65),
  nested(5_000),
  '['.repeat(100_000),
  `{"a":"${'x'.repeat(1 << 20)}"}`,
  Uint8Array.of(0xff, 0xfe, 0x7b, 0x7d),
  Uint8Array.of(0x7b, 0x22, 0xc3, 0x28, 0x22, 0x3a, 0x31, 0x7d),
]

export interface Body {
  readonly type: string | null
  readonly bytes: string | Uint8Array<ArrayBuffer>
}

const JSON_TYPE = 'application/json'
const TYPES = [
  null,
  'text/plain',
  'application/x-www-form-urlencoded',
  'multipart/form-data; boundary=x',
  'application/json; charset=utf-16',
  'APPLICATION/JSON',
  'application/json, text/html',
  'application/merge-patch+json',
  '; ; ;',
]

/** `seeds`: bodies that are right by rules which no schema can say. */
export function bodyOf(schema: Schema, schemas: Schemas, known: Known, seeds: readonly Json[]): fc.Arbitrary<Body> {
  const written = validOf(schema, schemas, known)
  const valid = seeds.length === 0 ? written : fc.oneof(written, fc.constantFrom(...seeds))
  const asJson = (value: Json): Body => ({ type: JSON_TYPE, bytes: JSON.stringify(value) })
  return fc.oneof(
    { weight: 10, arbitrary: valid.map(asJson) },
    { weight: 6, arbitrary: nearly(valid).map(asJson) },
    { weight: 2, arbitrary: hostile.map(asJson) },
    { weight: 2, arbitrary: fc.constantFrom(...RAW).map((bytes): Body => ({ type: JSON_TYPE, bytes })) },
    {
      weight: 1,
      arbitrary: fc.tuple(fc.constantFrom(...TYPES), valid).map(([type, value]) => ({ ...asJson(value), type })),
    },
    {
      weight: 1,
      arbitrary: fc.tuple(valid, fc.nat()).map(([value, at]) => ({ ...asJson(value), bytes: cut(value, at) })),
    },
  )
}

function cut(value: Json, at: number): string {
  const text = JSON.stringify(value)
  return text.slice(0, at % (text.length + 1))
}

/** Percent signs are as they are: what is a broken escape stays one. */
const RAW_IDS = [
  '%',
  '%E0%A4%A',
  '%00',
  '%2F',
  '%2e%2e%2f',
  'a%20b',
  '%F0%9F%98%80',
  '%25',
  '*',
  "'",
  '~',
  '%ED%A0%80',
  '%3Fa=1',
  ';x',
]

/** For a place in the path, encoded. */
export function segmentOf(schema: Schema, known: Known, name: string): fc.Arbitrary<string> {
  const encode = (value: Json) => encodeURIComponent(String(value).toWellFormed())
  const isPlace = (text: string) => text !== '' && text !== '.' && text !== '..'
  return fc.oneof(
    { weight: 8, arbitrary: validOf(schema, {}, known, name).map(encode).filter(isPlace) },
    { weight: 1, arbitrary: hostile.map(encode).filter((text) => isPlace(text) && text.length < 4_000) },
    { weight: 1, arbitrary: fc.constantFrom(...RAW_IDS) },
  )
}

const scalar = (value: Json) => (typeof value === 'object' ? JSON.stringify(value) : String(value)).toWellFormed()

export function queryOf(schema: Schema, known: Known, name: string): fc.Arbitrary<string> {
  return fc.oneof(
    { weight: 4, arbitrary: validOf(schema, {}, known, name).map(scalar) },
    { weight: 1, arbitrary: hostile.map(scalar) },
  )
}

/** As far as an HTTP client can send it. */
export function headerOf(schema: Schema, known: Known, name: string): fc.Arbitrary<string> {
  const odd = fc.constantFrom('', ' ', 'é', '\u00ff'.repeat(300), '0', 'null', '{}', '00-0-0-00', 'x'.repeat(5_000))
  const valid = validOf(schema, {}, known, name).map((value) => scalar(value).replaceAll(/[^\x20-\x7e]/g, '?'))
  return fc.oneof({ weight: 4, arbitrary: valid }, { weight: 1, arbitrary: odd })
}
