// `response_format`, or a call that is asked for → what the grammar keeps an answer to. Of JSON Schema only the subset that it keeps to is taken,
// and the rest refused by name: a keyword that is ignored is an answer that is not what was asked for.
import { z } from 'zod'
import type { ChatCompletionRequest, ResponseFormat, Tool } from '../contract.ts'
import type { Constraint } from '../engine/constraint.ts'
import { BackendError } from '../errors.ts'

/**
 * The grammar is compiled by the thread that everybody's rows run in: 64 strings take half a second of it with a
 * vocabulary of 49,152. Bounds on the length of a string would take three seconds each, so there are none.
 */
const MAX_SCHEMAS = 64
const MAX_DEPTH = 16
const MAX_VALUES = 512
const MAX_ITEMS = 1_000

const TYPES = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'] as const
const Type = z.enum(TYPES)
const Integer = z.int(`must be an integer`)
const Items = z.int().min(0).max(MAX_ITEMS)
const Json = z.json()
const Inner = z.unknown()
const REFERENCE = /^#(?:\/(\$defs|definitions)\/([^/~%]+))?$/

/** Say something about the value to people, and nothing about its form. */
const annotations = {
  title: Inner.optional(),
  description: Inner.optional(),
  default: Inner.optional(),
  examples: Inner.optional(),
  $schema: Inner.optional(),
  $comment: Inner.optional(),
}

const Schema = z.strictObject({
  ...annotations,
  $ref: z.string().regex(REFERENCE, 'must be "#", "#/$defs/NAME" or "#/definitions/NAME"').optional(),
  $defs: z.record(z.string(), Inner).optional(),
  definitions: z.record(z.string(), Inner).optional(),
  type: z.union([Type, z.array(Type).min(1)], `is a type that is none of ${TYPES.join(', ')}`).optional(),
  enum: z.array(Json).min(1).max(MAX_VALUES).optional(),
  const: Json.optional(),
  anyOf: z.array(Inner).min(1).optional(),
  properties: z.record(z.string(), Inner).optional(),
  required: z.array(z.string()).optional(),
  additionalProperties: Inner.optional(),
  items: Inner.optional(),
  minItems: Items.optional(),
  maxItems: Items.optional(),
  minimum: Integer.optional(),
  maximum: Integer.optional(),
  exclusiveMinimum: Integer.optional(),
  exclusiveMaximum: Integer.optional(),
})
type Schema = z.infer<typeof Schema>

/** What says of which form a value is; a schema has exactly one. */
const FORMS = ['$ref', 'const', 'enum', 'anyOf', 'type'] as const
/** Which keyword belongs to which type. */
const OF_TYPE: Readonly<Record<string, (typeof TYPES)[number]>> = {
  properties: 'object',
  required: 'object',
  additionalProperties: 'object',
  items: 'array',
  minItems: 'array',
  maxItems: 'array',
  minimum: 'integer',
  maximum: 'integer',
  exclusiveMinimum: 'integer',
  exclusiveMaximum: 'integer',
}

/** Throws `request_invalid`. */
export function constraintOf(format: ResponseFormat | null | undefined): Constraint | undefined {
  if (format == null || format.type === 'text') return undefined
  if (format.type === 'json_object') return { kind: 'object' }
  const reader = new Reader('response_format.json_schema.schema')
  return { kind: 'schema', schema: JSON.stringify(reader.root(format.json_schema.schema)) }
}

/** Where an answer has to be a call. Throws `request_invalid`. */
export function callConstraintOf(
  tools: readonly Tool[] | undefined,
  choice: ChatCompletionRequest['tool_choice'],
): Constraint | undefined {
  if (tools === undefined || choice == null || choice === 'auto' || choice === 'none') return undefined
  const asked = choice === 'required' ? tools : tools.filter((tool) => tool.function.name === choice.function.name)
  const functions = asked.map(({ function: { name, parameters } }) => {
    const field = `tools.${tools.findIndex((tool) => tool.function.name === name)}.function.parameters`
    const reader = new Reader(field)
    return { name, schema: JSON.stringify(reader.root(parameters ?? { type: 'object', properties: {} })) }
  })
  return { kind: 'call', functions }
}

class Reader {
  readonly #field: string
  #schemas = 0
  /** Reference → where it is used, to be looked up when all definitions are read. */
  readonly #used = new Map<string, string>()
  /** Schemas that are each other at once, without a character between them: by path, the paths that they lead to. */
  readonly #leads = new Map<string, string[]>()

  constructor(field: string) {
    this.#field = field
  }

  root(given: unknown): object {
    const { $defs, definitions } = this.#parse(given, '#')
    const clean: Record<string, unknown> = this.#read(given, '#', 0)
    const known = new Set(['#'])
    for (const [key, defs] of [['$defs', $defs] as const, ['definitions', definitions] as const]) {
      if (defs === undefined) continue
      const read = Object.entries(defs).map(([name, schema]) => {
        const path = `#/${key}/${name}`
        known.add(path)
        return [name, this.#read(schema, path, 1)] as const
      })
      clean[key] = Object.fromEntries(read)
    }
    for (const [reference, path] of this.#used) {
      if (!known.has(reference)) throw this.#refused(path, `refers to "${reference}", which is not there`)
    }
    for (const path of known) this.#follow(path, new Set())
    return clean
  }

  #read(given: unknown, path: string, depth: number): Record<string, unknown> {
    this.#schemas += 1
    if (this.#schemas > MAX_SCHEMAS)
      throw this.#refused(path, `is one schema more than the ${MAX_SCHEMAS} that are taken`)
    if (depth > MAX_DEPTH) throw this.#refused(path, `lies deeper than ${MAX_DEPTH} levels`)
    const schema = this.#parse(given, path)
    if (path !== '#' && (schema.$defs ?? schema.definitions) !== undefined) {
      throw this.#refused(path, 'has definitions; they belong to the top')
    }
    const form = this.#formOf(schema, path)
    if (form === '$ref') {
      this.#used.set(schema.$ref!, path)
      this.#leads.set(path, [schema.$ref!])
      return { $ref: schema.$ref }
    }
    if (form === 'const') return { const: schema.const }
    if (form === 'enum') return { enum: schema.enum }
    if (form === 'anyOf') {
      const paths = schema.anyOf!.map((_, at) => `${path}/anyOf/${at}`)
      this.#leads.set(path, paths)
      return { anyOf: schema.anyOf!.map((inner, at) => this.#read(inner, paths[at]!, depth + 1)) }
    }
    return this.#readTyped(schema, path, depth)
  }

  #readTyped(schema: Schema, path: string, depth: number): Record<string, unknown> {
    const { type, properties, required, additionalProperties: more, items } = schema
    const types = [type!].flat()
    const clean: Record<string, unknown> = { type }
    for (const [key, of] of Object.entries(OF_TYPE)) {
      const value = schema[key as keyof Schema]
      if (value === undefined) continue
      if (!types.includes(of)) throw this.#refused(path, `has "${key}" and is no ${of}`)
      clean[key] = value
    }
    if (properties !== undefined) {
      clean.properties = Object.fromEntries(
        Object.entries(properties).map(([name, inner]) => [
          name,
          this.#read(inner, `${path}/properties/${name}`, depth + 1),
        ]),
      )
    }
    const stranger = required?.find((name) => properties === undefined || !Object.hasOwn(properties, name))
    if (stranger !== undefined) throw this.#refused(path, `requires "${stranger}", which is none of its properties`)
    if (more !== undefined && typeof more !== 'boolean') {
      clean.additionalProperties = this.#read(more, `${path}/additionalProperties`, depth + 1)
    }
    if (items !== undefined) clean.items = this.#read(items, `${path}/items`, depth + 1)
    this.#checkBounds(schema, path)
    return clean
  }

  #checkBounds(schema: Schema, path: string): void {
    const pairs = [
      ['minItems', 'maxItems', 0],
      ['minimum', 'maximum', 0],
      ['minimum', 'exclusiveMaximum', 1],
      ['exclusiveMinimum', 'maximum', 1],
      ['exclusiveMinimum', 'exclusiveMaximum', 2],
    ] as const
    for (const [low, high, apart] of pairs) {
      const [from, to] = [schema[low], schema[high]]
      if (from !== undefined && to !== undefined && from + apart > to) {
        throw this.#refused(path, `has ${low} ${from} and ${high} ${to}: no value is both`)
      }
    }
  }

  #formOf(schema: Schema, path: string): (typeof FORMS)[number] {
    const forms = FORMS.filter((form) => schema[form] !== undefined)
    // A type beside the values says nothing new, and generators write it.
    const [form, second] = forms.filter(
      (found) => found !== 'type' || !forms.some((f) => f === 'const' || f === 'enum'),
    )
    if (form === undefined) throw this.#refused(path, 'has no type')
    if (second !== undefined)
      throw this.#refused(path, `has both "${form}" and "${second}"; only one of them is kept to`)
    if (form === 'type') return form
    const beside = Object.keys(OF_TYPE).find((key) => schema[key as keyof Schema] !== undefined)
    if (beside !== undefined) throw this.#refused(path, `has "${beside}" beside "${form}", where it is not kept to`)
    return form
  }

  #parse(given: unknown, path: string): Schema {
    const parsed = Schema.safeParse(given)
    if (parsed.success) return parsed.data
    const issue = parsed.error.issues[0]!
    if (issue.code === 'unrecognized_keys') {
      throw this.#refused(path, `has "${issue.keys[0]}", which is not supported`)
    }
    const at = issue.path.join('/')
    throw this.#refused(at === '' ? path : `${path}/${at}`, issue.message)
  }

  /** A schema that is itself, by way of others, has no value and no grammar. */
  #follow(path: string, seen: ReadonlySet<string>): void {
    if (seen.has(path)) throw this.#refused(path, 'is defined by itself alone')
    for (const next of this.#leads.get(path) ?? []) this.#follow(next, new Set([...seen, path]))
  }

  #refused(path: string, what: string): BackendError {
    const message = `"${this.#field}": ${path.slice(0, 200)} ${what.slice(0, 200)}`
    return new BackendError('request_invalid', message, this.#field)
  }
}
