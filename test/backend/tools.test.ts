// Tools: into the chat template as transformers puts them there, and calls out of the model's answer.
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import type { Tool } from '../../gpu-backend/contract.ts'
import type { EngineClient } from '../../gpu-backend/engine/client.ts'
import type { GenerateRequest, Stats } from '../../gpu-backend/engine/request.ts'
import { createApp } from '../../gpu-backend/http/app.ts'
import { capabilityVerifier } from '../../gpu-backend/http/capability.ts'
import { templateMessages } from '../../gpu-backend/http/chat-messages.ts'
import { createMetrics } from '../../gpu-backend/http/metrics.ts'
import { ToolCalls } from '../../gpu-backend/http/tool-calls.ts'
import { serve } from '../../gpu-backend/serve.ts'
import { openText, type Text } from '../../gpu-backend/text/tokenizer.ts'
import { nodeHost, openFolder, stageFolder } from '../../runtime/disk.ts'
import { claimsOf, mint, SECRET } from './mint.ts'

const ROOT = join(import.meta.dirname, '..', '..')
const oracle = JSON.parse(await readFile(join(ROOT, 'test/parity/oracle/openai.json'), 'utf8')) as {
  tools: { template: string; tools: Tool[]; text: string; ids: number[] }
}
/** As OpenAI's clients send it: arguments are a text. */
const MESSAGES = [
  {
    role: 'developer' as const,
    content: [
      { type: 'text' as const, text: 'Be ' },
      { type: 'text' as const, text: 'brief.' },
    ],
  },
  { role: 'user' as const, content: 'Where is order 17?' },
  {
    role: 'assistant' as const,
    content: null,
    tool_calls: [{ id: 'call_1', type: 'function' as const, function: { name: 'look_up', arguments: '{"order":17}' } }],
  },
  { role: 'tool' as const, tool_call_id: 'call_1', content: 'on its way' },
]
const BASE = 'b'.repeat(64)
const CALL = '<tool_call>\n{"name": "look_up", "arguments": {"order": 17}}\n</tool_call>'

let text: Text
beforeAll(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'sidepath-tools-'))
  afterAll(() => rm(folder, { recursive: true, force: true }))
  await cp(join(ROOT, 'examples/demo/base/tokenizer.json'), join(folder, 'tokenizer.json'))
  await writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify({ chat_template: oracle.tools.template }))
  text = (await openText(openFolder(folder)))!
})

/** The real routes over a model that says what it is told to, cut into pieces of three characters. */
async function saying(answer: string, finish: 'stop' | 'length' = 'stop') {
  const seen: GenerateRequest[] = []
  const stats: Stats = {
    steps: 0,
    prefillTokens: 0,
    decodeTokens: 0,
    rows: 0,
    queued: 0,
    slots: 0,
    free: 0,
    running: [],
    waiting: [],
    kvUsed: 0,
  }
  const engine: EngineClient = {
    info: { base: BASE, maxPositions: 512, vocabSize: 2_048, slots: 0, provider: 'cpu' },
    alive: true,
    stats,
    async *generate(request) {
      seen.push(request)
      const parts = answer.match(/.{1,3}/gs) ?? []
      for (const [at, part] of parts.entries()) {
        yield { ids: [at], text: part, ...(at === parts.length - 1 ? { finish } : {}) }
      }
    },
    embed: async () => [],
    load: async () => 0,
    unload: async () => {},
    residents: async () => [],
    close: async () => {},
  }
  const app = createApp({
    engine,
    text,
    verify: capabilityVerifier(SECRET, BASE),
    mayScrape: () => false,
    metrics: createMetrics({ alive: true, stats, base: BASE }, Date.now),
    log: () => {},
    now: Date.now,
    draining: () => false,
  })
  const openai = new OpenAI({
    apiKey: await mint(claimsOf(BASE)),
    baseURL: 'http://backend.test/v1',
    maxRetries: 0,
    fetch: async (url, init) => {
      const { model: _, ...body } = JSON.parse(String(init?.body))
      return app.request(String(url), { ...init, body: JSON.stringify(body) } as RequestInit)
    },
  })
  return { openai, seen }
}

const question = { model: '-', messages: [{ role: 'user' as const, content: 'Where is order 17?' }], temperature: 0 }
const withTools = { ...question, tools: oracle.tools.tools as OpenAI.ChatCompletionTool[] }

describe('the template', () => {
  test('gets tools, calls and their results as transformers gives them', () => {
    expect(text.encodeChat(templateMessages(MESSAGES), 500, oracle.tools.tools)).toEqual(oracle.tools.ids)
  })

  test('gets no tools where the choice is none', async () => {
    const { openai, seen } = await saying(CALL)
    const found = await openai.chat.completions.create({ ...withTools, tool_choice: 'none' })
    expect(text.decode(seen[0]!.promptIds)).not.toContain('look_up')
    expect(found.choices[0]).toMatchObject({ message: { content: CALL }, finish_reason: 'stop' })
    await openai.chat.completions.create(withTools)
    expect(text.decode(seen[1]!.promptIds)).toContain('look_up')
  })

  test.each(['[1]', '17', '{', 'null', ''])('arguments that are %j are refused', async (args) => {
    const { openai } = await saying('')
    const call = { id: 'c', type: 'function' as const, function: { name: 'look_up', arguments: args } }
    const messages = [{ role: 'assistant' as const, tool_calls: [call] }]
    await expect(openai.chat.completions.create({ ...withTools, messages })).rejects.toMatchObject({
      status: 400,
      param: 'messages.0.tool_calls',
    })
  })
})

describe('a call', () => {
  test('is taken out of the text, and ends the answer as one', async () => {
    const { openai } = await saying(`I look.\n${CALL}\n${CALL}`)
    const { choices } = await openai.chat.completions.create(withTools)
    const { message, finish_reason } = choices[0]!
    expect([message.content, finish_reason]).toEqual(['I look.\n\n', 'tool_calls'])
    const expected = { type: 'function', function: { name: 'look_up', arguments: '{"order":17}' } }
    expect(message.tool_calls).toMatchObject([expected, expected])
    expect(new Set(message.tool_calls!.map(({ id }) => id)).size).toBe(2)
  })

  test('alone leaves no content', async () => {
    const { openai } = await saying(`\n${CALL}\n`)
    expect((await openai.chat.completions.create(withTools)).choices[0]!.message.content).toBeNull()
  })

  test('streams whole, and is what the client puts together', async () => {
    const { openai } = await saying(`So: ${CALL}${CALL}`)
    const stream = openai.chat.completions.stream(withTools)
    const { message, finish_reason } = (await stream.finalChatCompletion()).choices[0]!
    expect([message.content, finish_reason]).toEqual(['So: ', 'tool_calls'])
    expect(message.tool_calls!.map((call) => call.type === 'function' && call.function.arguments)).toEqual([
      '{"order":17}',
      '{"order":17}',
    ])
  })

  test.each([
    ['of a function that was not offered', CALL.replace('look_up', 'drop_all')],
    ['whose JSON is broken', CALL.replace('}}', '}')],
    ['whose arguments are a list', CALL.replace('{"order": 17}', '[17]')],
    ['that is cut off', CALL.slice(0, 40)],
  ])('%s stays text, to the letter', async (_, answer) => {
    const { openai } = await saying(answer, 'length')
    const { message, finish_reason } = (await openai.chat.completions.create(withTools)).choices[0]!
    expect([message.content, message.tool_calls, finish_reason]).toEqual([answer, undefined, 'length'])
  })

  test('is found however the text is cut (property)', () => {
    const parts = fc.array(
      fc.oneof(fc.constant(CALL), fc.constantFrom('<tool', '<tool_call>', '</tool_call>', 'a', '<')),
    )
    const cut = (pieces: readonly string[]) => {
      const reader = new ToolCalls(['look_up'])
      const reads = [...pieces.map((piece) => reader.push(piece)), reader.end()]
      return { text: reads.map((read) => read.text).join(''), calls: reads.flatMap((read) => read.calls).length }
    }
    fc.assert(
      fc.property(parts, fc.integer({ min: 1, max: 20 }), (all, size) => {
        const whole = all.join('')
        expect(cut(whole.match(new RegExp(`.{1,${size}}`, 'gs')) ?? [])).toEqual(cut([whole]))
      }),
    )
  })
})

describe('a call that is asked for', () => {
  const other: OpenAI.ChatCompletionTool = { type: 'function', function: { name: 'hang_up' } }
  const tools = [other, withTools.tools[0]!]

  test('is made by a model that was never taught to, with arguments of the schema', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sidepath-forced-'))
    afterAll(() => rm(folder, { recursive: true, force: true }))
    const base = join(folder, 'base')
    await cp(join(ROOT, 'examples/demo/base'), base, { recursive: true })
    const config = JSON.parse(await readFile(join(base, 'tokenizer_config.json'), 'utf8'))
    const given = JSON.stringify({ ...config, chat_template: oracle.tools.template })
    await writeFile(join(base, 'tokenizer_config.json'), given)
    const staged = await stageFolder(join(folder, 'artifact'))
    await compile({ base: openFolder(base), adapters: [], target: 'routed' }, staged, nodeHost)
    await staged.commit()
    const backend = await serve({ artifact: join(folder, 'artifact'), secret: SECRET, port: 0, log: () => {} })
    const openai = new OpenAI({
      apiKey: await mint(claimsOf(backend.ready.base)),
      baseURL: `${backend.url}/v1`,
      maxRetries: 0,
      fetch: (url, init) => {
        const { model: _, ...body } = JSON.parse(String(init?.body))
        return fetch(url, { ...init, body: JSON.stringify(body) } as RequestInit)
      },
    })
    const asked = { ...question, tools, temperature: 1, max_tokens: 120 }
    const named = { type: 'function' as const, function: { name: 'look_up' } }
    const found = await Promise.all(
      [0, 1, 2, 3, 4, 5].map((seed) =>
        openai.chat.completions.create({ ...asked, seed, tool_choice: seed < 3 ? named : 'required' }),
      ),
    )
    for (const [seed, { choices }] of found.entries()) {
      const { message, finish_reason } = choices[0]!
      expect([message.content, finish_reason]).toEqual([null, 'tool_calls'])
      const [call] = message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[]
      if (seed < 3) expect(call!.function.name).toBe('look_up')
      const args = JSON.parse(call!.function.arguments)
      if (call!.function.name === 'hang_up') expect(args).toEqual({})
      else expect(args).toEqual({ order: expect.any(Number) })
    }
    await backend.close()
  })

  test('of a function that was not offered, or whose parameters cannot be kept to, is refused', async () => {
    const { openai } = await saying(CALL)
    const named = { type: 'function' as const, function: { name: 'drop_all' } }
    const asked = openai.chat.completions.create({ ...withTools, tool_choice: named })
    await expect(asked).rejects.toMatchObject({ status: 400, param: 'tool_choice' })
    const pattern = { type: 'object', properties: { a: { type: 'string', pattern: 'x' } } }
    const strange = [other, { type: 'function' as const, function: { name: 'f', parameters: pattern } }]
    const unkept = openai.chat.completions.create({ ...question, tools: strange, tool_choice: 'required' })
    await expect(unkept).rejects.toMatchObject({ status: 400, param: 'tools.1.function.parameters' })
    expect((await openai.chat.completions.create({ ...question, tools: strange })).choices).toHaveLength(1)
  })
})
