// Engines' servers as far as the gateway speaks to them, over real HTTP: each takes what the real one documents, refuses or
// ignores the rest as that one does, answers with the fields that the real one adds, and fails when it is told to.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export type Order =
  | 'serve'
  /** Takes the adapter's name, and answers as the base. */
  | 'serve-the-base'
  /** Never the same answer twice. */
  | 'serve-at-random'
  /** Takes the connection and says nothing, not even that it is alive. */
  | 'be-dead'
  /** Alive and slow: no byte of an answer ever. */
  | 'hang'
  /** Not ready for more, and late with what it began. */
  | 'drain'
  | 'fail'
  | 'reset-mid-stream'
  | 'error-mid-stream'
  | 'stall-mid-stream'
  | 'endless'
  | 'too-long'
  | 'not-json'

type Body = Readonly<Record<string, unknown>>

export interface Seen {
  readonly path: string
  readonly authorization: string | undefined
  readonly headers: IncomingMessage['headers']
  readonly body: Body
}

/** What ran, or the status that the real server would answer with. */
type Ran = { readonly model: string } | { readonly status: number }

interface Kind {
  readonly base: string
  /** Loaded at the start. */
  readonly adapters: readonly string[]
  readonly run: (path: string, body: Body, loaded: ReadonlySet<string>) => Ran
  /** Path of loading, and the name out of its body. */
  readonly load?: { readonly path: string; readonly again: number }
  readonly alive: string | null
  readonly metrics?: (loaded: ReadonlySet<string>) => string
  readonly native?: true
}

export const BASE_NAME = 'acme-labs/Tiny-1B'
const OPENAI = ['/v1/chat/completions', '/v1/completions', '/v1/embeddings']
const byName = (path: string, name: unknown, base: string, loaded: ReadonlySet<string>): Ran => {
  if (!OPENAI.includes(path)) return { status: 404 }
  if (name === base) return { model: 'base' }
  return typeof name === 'string' && loaded.has(name) ? { model: name } : { status: 404 }
}
const isSalt = (salt: unknown) => typeof salt === 'string' && salt.length > 0

export const KINDS = {
  vllm: {
    base: BASE_NAME,
    adapters: ['red-v1'],
    // An empty salt is refused; one for embeddings is not known.
    run: (path, body, loaded) =>
      'cache_salt' in body && !isSalt(body.cache_salt) ? { status: 400 } : byName(path, body.model, BASE_NAME, loaded),
    load: { path: '/v1/load_lora_adapter', again: 400 },
    alive: '/health',
    metrics: (loaded) =>
      [
        '# TYPE vllm:lora_requests_info gauge',
        `vllm:lora_requests_info{max_lora="2",running_lora_adapters="old",waiting_lora_adapters=""} 1.7e9`,
        `vllm:lora_requests_info{max_lora="2",running_lora_adapters="${[...loaded].join(',')}",waiting_lora_adapters=""} 1.8e9`,
        'vllm:num_requests_running{engine="0",model_name="x"} 1.0',
        'vllm:num_requests_waiting{engine="0",model_name="x"} 2.0',
      ].join('\n'),
  },
  sglang: {
    base: BASE_NAME,
    adapters: ['red-v1'],
    run(path, body, loaded) {
      const [base, adapter] = String(body.model).split(':')
      if (base !== BASE_NAME || !OPENAI.includes(path)) return { status: 400 }
      if (adapter === undefined) return { model: 'base' }
      return loaded.has(adapter) ? { model: adapter } : { status: 400 }
    },
    load: { path: '/load_lora_adapter', again: 400 },
    alive: '/health',
    metrics: () => 'sglang:num_running_reqs{model_name="x"} 3.0\nsglang:num_queue_reqs{model_name="x"} 4.0\n',
  },
  lorax: {
    base: '',
    adapters: ['red-v1'],
    run(path, body, loaded) {
      // As its server reads them: one text, stops in a list, an unknown adapter fails to load.
      if (path === '/v1/embeddings' || (path === '/v1/completions' && typeof body.prompt !== 'string')) {
        return { status: 422 }
      }
      if (body.stop !== undefined && !Array.isArray(body.stop)) return { status: 422 }
      return body.model === '' ? { model: 'base' } : byName(path, body.model, BASE_NAME, loaded)
    },
    alive: '/health',
    metrics: () => 'lorax_queue_size 5\n',
  },
  'llama-cpp': {
    base: '',
    adapters: ['0', '1'],
    run(path, body, loaded) {
      if (!OPENAI.includes(path)) return { status: 404 }
      // Where no list is given, the scales of its start hold: adapter 0, at 1.
      const list = body.lora === undefined ? [{ id: 0, scale: 1 }] : (body.lora as { id: unknown; scale: unknown }[])
      const isList =
        Array.isArray(list) && list.every(({ id, scale }) => Number.isInteger(id) && typeof scale === 'number')
      if (!isList || list.some(({ id }) => !loaded.has(String(id)))) return { status: 400 }
      const used = list.filter(({ scale }) => scale !== 0)
      return { model: used.length === 0 ? 'base' : used.map(({ id, scale }) => `${id}@${scale}`).join('+') }
    },
    alive: '/health',
    metrics: () => 'llamacpp:requests_processing 1\nllamacpp:requests_deferred 6\n',
  },
  'workers-ai': {
    base: `@cf/${BASE_NAME}`,
    adapters: ['red-v1'],
    run(path, body, loaded) {
      if (path !== `/client/v4/accounts/acc/ai/run/@cf/${BASE_NAME}`) return { status: 404 }
      if ((body.prompt === undefined) === (body.messages === undefined) || !Number.isInteger(body.max_tokens)) {
        return { status: 400 }
      }
      if (body.lora === undefined) return { model: 'base' }
      return loaded.has(String(body.lora)) ? { model: String(body.lora) } : { status: 400 }
    },
    alive: null,
    native: true,
  },
  openai: {
    base: BASE_NAME,
    adapters: ['red-v1'],
    run(path, body, loaded) {
      const known = ['model', 'messages', 'prompt', 'input', 'stream', 'stream_options', 'max_tokens', 'temperature']
      const options = Object.keys((body.stream_options as object | undefined) ?? {})
      const unknown = Object.keys(body).some((name) => !known.includes(name) && name !== 'seed' && name !== 'tools')
      if (unknown || options.some((name) => name !== 'include_usage')) return { status: 400 }
      return byName(path, body.model, BASE_NAME, loaded)
    },
    alive: '/v1/models',
  },
} as const satisfies Record<string, Kind>

export type KindName = keyof typeof KINDS

const LEAK = 'internal-host-7'

async function readAll(request: IncomingMessage): Promise<Body> {
  let text = ''
  for await (const piece of request) text += piece
  return text === '' ? {} : JSON.parse(text)
}

export interface StandIn {
  readonly url: string
  readonly seen: Seen[]
  readonly loaded: Set<string>
  /** Bytes that the other side has taken of endless streams. */
  readonly sent: () => number
  order(order: Order): void
  close(): Promise<void>
}

export async function standIn(name: KindName, key?: string): Promise<StandIn> {
  const kind: Kind = KINDS[name]
  const seen: Seen[] = []
  const loaded = new Set<string>(kind.adapters)
  let order: Order = 'serve'
  let answers = 0
  let sent = 0

  const json = (response: ServerResponse, status: number, value: unknown) => {
    response.writeHead(status, { 'content-type': 'application/json', server: LEAK, 'set-cookie': 'a=b' })
    response.end(JSON.stringify(value))
  }

  async function stream(response: ServerResponse, path: string, text: string, body: Body): Promise<unknown> {
    response.writeHead(200, { 'content-type': 'text/event-stream', server: LEAK })
    const write = (value: unknown) =>
      new Promise<void>((resolve) => {
        response.write(`data: ${typeof value === 'string' ? value : JSON.stringify(value)}\n\n`, () => resolve())
      })
    const usage = {
      prompt_tokens: 7,
      completion_tokens: 2,
      total_tokens: 9,
      prompt_tokens_details: { cached_tokens: 6 },
    }
    const chunk = (piece: string, finish: string | null) =>
      kind.native
        ? { response: piece, p: 'padding' }
        : {
            id: `upstream-${LEAK}`,
            object: path.includes('chat') ? 'chat.completion.chunk' : 'text_completion',
            created: 1,
            model: LEAK,
            system_fingerprint: LEAK,
            choices: [
              path.includes('chat')
                ? { index: 0, delta: { role: 'assistant', content: piece, reasoning_id: LEAK }, finish_reason: finish }
                : { index: 0, text: piece, finish_reason: finish, stop_reason: null },
            ],
          }
    await write(chunk(text, null))
    if (order === 'reset-mid-stream') return response.socket?.destroy()
    if (order === 'error-mid-stream') {
      await write({ error: { message: `CUDA out of memory on ${LEAK}`, code: 500 } })
      return response.end()
    }
    if (order === 'stall-mid-stream') return undefined
    while (order === 'endless' && !response.destroyed) {
      const event = chunk('x'.repeat(8_000), null)
      // Waits for the socket to take it, as a server does that minds its memory.
      await write(event)
      sent += 8_000
    }
    await write(chunk('!', 'stop'))
    const asked = (body.stream_options as { include_usage?: boolean } | undefined)?.include_usage
    if (kind.native) await write({ response: '', usage })
    else if (asked || name === 'lorax') await write({ ...chunk('', null), choices: [], usage })
    await write('[DONE]')
    return response.end()
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<unknown> {
    const path = request.url ?? ''
    if (order === 'be-dead') return undefined
    if (key !== undefined && request.headers.authorization !== `Bearer ${key}`)
      return json(response, 401, { key: LEAK })
    if (request.method === 'GET') {
      if (path === kind.alive && order === 'drain') return json(response, 503, {})
      if (path === kind.alive) return json(response, 200, {})
      if (path === '/metrics' && kind.metrics) return response.end(kind.metrics(loaded))
      return json(response, 404, {})
    }
    const body = await readAll(request)
    seen.push({ path, authorization: request.headers.authorization, headers: request.headers, body })
    if (kind.load !== undefined && path === kind.load.path) {
      const lora = String(body.lora_name)
      if (typeof body.lora_path !== 'string' || loaded.has(lora)) return json(response, kind.load.again, {})
      loaded.add(lora)
      return json(response, 200, { success: true })
    }
    if (order === 'hang') return undefined
    if (order === 'drain') await new Promise((resolve) => setTimeout(resolve, 250))
    if (order === 'fail') return json(response, 500, { error: LEAK })
    if (order === 'too-long') {
      const message = `This model's maximum context length is 4096 tokens (${LEAK})`
      return json(response, 400, { object: 'error', message, code: 400 })
    }
    if (order === 'not-json') {
      response.writeHead(200, { 'content-type': 'application/json' })
      return response.end(`<html>${LEAK}`)
    }
    const ran = kind.run(path, body, loaded)
    if ('status' in ran) return json(response, ran.status, { error: { message: `no model ${body.model} on ${LEAK}` } })
    answers += 1
    const model =
      order === 'serve-the-base' ? 'base' : order === 'serve-at-random' ? `${ran.model}#${answers}` : ran.model
    const text = `${model} says hello`
    if (body.stream === true) return stream(response, path, text, body)
    const usage = {
      prompt_tokens: 7,
      completion_tokens: 2,
      total_tokens: 9,
      prompt_tokens_details: { cached_tokens: 6 },
    }
    if (kind.native) return json(response, 200, { result: { response: text, usage }, success: true, errors: [] })
    const head = { id: LEAK, created: 1, model: LEAK, system_fingerprint: LEAK, timings: { cache_n: 6 }, usage }
    if (path === '/v1/embeddings') {
      return json(response, 200, { ...head, object: 'list', data: [{ object: 'embedding', index: 0, embedding: [1] }] })
    }
    const calls =
      body.tools === undefined
        ? {}
        : { tool_calls: [{ id: LEAK, type: 'function', function: { name: 'f', arguments: '{}' } }] }
    const choice = path.includes('chat')
      ? {
          index: 0,
          message: { role: 'assistant', content: text, reasoning: LEAK, ...calls },
          finish_reason: 'eos_token',
        }
      : { index: 0, text, finish_reason: 'length', stop_reason: LEAK }
    return json(response, 200, { ...head, object: 'x', choices: [choice] })
  }

  const server = createServer((request, response) => void answer(request, response).catch(() => response.destroy()))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    loaded,
    sent: () => sent,
    order(next) {
      order = next
    },
    close() {
      server.closeAllConnections()
      return new Promise((resolve) => server.close(() => resolve()))
    },
  }
}
