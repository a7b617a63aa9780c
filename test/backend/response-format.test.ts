// Answers that are kept to a form: what the grammar lets through, and what of JSON Schema is refused.
import OpenAI from 'openai'
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { constraintOf } from '../../gpu-backend/http/response-format.ts'
import { startBackend } from './backend.ts'

const at = startBackend()

async function client(): Promise<OpenAI> {
  return new OpenAI({
    apiKey: await at.capability(),
    baseURL: `${at.backend.url}/v1`,
    maxRetries: 0,
    fetch: (url, init) => {
      const { model: _, ...body } = JSON.parse(String(init?.body))
      return fetch(url, { ...init, body: JSON.stringify(body) } as RequestInit)
    },
  })
}

const formatOf = (schema: unknown) => ({
  type: 'json_schema' as const,
  json_schema: { name: 'answer', schema: schema as Record<string, unknown>, strict: true },
})
const SCHEMA = {
  title: 'Ticket',
  type: 'object',
  properties: {
    team: { type: 'string', enum: ['billing', 'technical', 'größe "q"'] },
    count: { type: 'integer', minimum: -2, maximum: 12 },
    notes: { type: 'array', items: { $ref: '#/$defs/note' }, minItems: 1, maxItems: 2 },
    next: { anyOf: [{ type: 'null' }, { type: 'boolean' }] },
  },
  required: ['team', 'count', 'notes', 'next'],
  additionalProperties: false,
  $defs: { note: { enum: ['down', 'slow', null] } },
}
const Ticket = z.strictObject({
  team: z.enum(['billing', 'technical', 'größe "q"']),
  count: z.int().min(-2).max(12),
  notes: z
    .array(z.enum(['down', 'slow']).nullable())
    .min(1)
    .max(2),
  next: z.union([z.null(), z.boolean()]),
})
const ask = { model: '-', messages: [{ role: 'user' as const, content: 'The server is down.' }], max_tokens: 300 }

describe('an answer', () => {
  test('of a model that was never taught so is what the schema says, at any temperature', async () => {
    const openai = await client()
    const asked = Array.from({ length: 8 }, (_, seed) =>
      openai.chat.completions.create({ ...ask, seed, temperature: seed / 4, response_format: formatOf(SCHEMA) }),
    )
    const found = (await Promise.all(asked)).map(({ choices }) => choices[0]!)
    expect(found.map(({ finish_reason }) => finish_reason)).toEqual(Array(8).fill('stop'))
    const answers = found.map(({ message }) => Ticket.parse(JSON.parse(message.content!)))
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBeGreaterThan(3)
  })

  test('leaves the rows beside it as they are', async () => {
    const openai = await client()
    const plain = { ...ask, seed: 4, temperature: 1, max_tokens: 30 }
    const alone = await openai.chat.completions.create(plain)
    const [together] = await Promise.all([
      openai.chat.completions.create(plain),
      openai.chat.completions.create({ ...ask, seed: 4, response_format: formatOf(SCHEMA) }),
    ])
    expect(together.choices[0]!.message.content).toBe(alone.choices[0]!.message.content)
  })

  test('of json_object is the beginning of an object at least', async () => {
    const openai = await client()
    const fields = {
      ...ask,
      seed: 1,
      temperature: 0,
      max_tokens: 60,
      response_format: { type: 'json_object' as const },
    }
    const { message, finish_reason } = (await openai.chat.completions.create(fields)).choices[0]!
    expect(message.content!.trimStart().startsWith('{')).toBe(true)
    if (finish_reason === 'stop') expect(typeof JSON.parse(message.content!)).toBe('object')
  })

  test('of a recursive schema is one', async () => {
    const openai = await client()
    const tree = {
      type: 'object',
      properties: { name: { const: 'node' }, children: { type: 'array', items: { $ref: '#' }, maxItems: 2 } },
      required: ['name'],
    }
    type Tree = { name: 'node'; children?: Tree[] | undefined }
    const Tree: z.ZodType<Tree> = z.strictObject({
      name: z.literal('node'),
      children: z.lazy(() => z.array(Tree).max(2)).optional(),
    })
    const found = await openai.chat.completions.create({ ...ask, temperature: 0, response_format: formatOf(tree) })
    expect(found.choices[0]!.finish_reason).toBe('stop')
    Tree.parse(JSON.parse(found.choices[0]!.message.content!))
  })

  test('cannot be promised beside tools', async () => {
    const openai = await client()
    const tools = [{ type: 'function' as const, function: { name: 'f' } }]
    const asked = openai.chat.completions.create({ ...ask, tools, response_format: formatOf(SCHEMA) })
    await expect(asked).rejects.toMatchObject({ status: 400, param: 'response_format' })
  })
})

describe('a schema is refused', () => {
  const deep = (levels: number): object =>
    levels === 0 ? { type: 'null' } : { type: 'array', items: deep(levels - 1) }
  test.each([
    ['with a keyword that is not kept to', { type: 'string', pattern: '(a+)+$' }, '"pattern", which is not supported'],
    ['with one further down', { type: 'array', items: { not: {} } }, '#/items has "not"'],
    ['with a bound on its text', { type: 'string', maxLength: 5 }, '"maxLength", which is not supported'],
    ['with an unknown type', { type: 'date' }, '#/type is a type that is none of object'],
    ['without a type', {}, '# has no type'],
    ['with two forms', { type: 'object', anyOf: [{ type: 'null' }] }, 'both "anyOf" and "type"'],
    ['with a keyword of another type', { type: 'string', minItems: 1 }, '"minItems" and is no array'],
    ['with one beside values', { enum: [1], maximum: 3 }, '"maximum" beside "enum"'],
    ['with a reference that leads out', { $ref: 'http://example.test/' }, '"#/$defs/NAME"'],
    ['with a reference to nothing', { $ref: '#/$defs/none' }, '"#/$defs/none", which is not there'],
    ['that is itself', { $ref: '#' }, 'is defined by itself alone'],
    [
      'that is itself by a detour',
      { anyOf: [{ type: 'null' }, { $ref: '#/$defs/a' }], $defs: { a: { $ref: '#' } } },
      'is defined by itself alone',
    ],
    ['that requires what it does not describe', { type: 'object', required: ['a'] }, 'requires "a"'],
    ['that nothing is', { type: 'integer', minimum: 3, maximum: 2 }, 'no value is both'],
    ['that is too deep', deep(17), 'deeper than 16 levels'],
    ['that is too long', { type: 'array', maxItems: 1_001, items: { type: 'null' } }, '#/maxItems'],
    ['that is too wide', { anyOf: Array.from({ length: 64 }, () => ({ type: 'null' })) }, 'more than the 64'],
    ['that is no object', { type: 'object', properties: { a: true } }, '#/properties/a'],
  ])('%s', (_, schema, message) => {
    const given = {
      type: 'json_schema' as const,
      json_schema: { name: 'x', schema: schema as Record<string, unknown> },
    }
    expect(() => constraintOf(given)).toThrow(message)
  })

  test('as deep as may be is taken', () => {
    expect(constraintOf({ type: 'json_schema', json_schema: { name: 'x', schema: { ...deep(16) } } })).toBeDefined()
  })
})
