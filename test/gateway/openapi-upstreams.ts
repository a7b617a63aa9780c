// What is on the other side while the routes are fuzzed: backends of ours and others', an issuer and the compiler, as one
// function. Some hosts are broken, and all of them say things that no caller may hear.
import { Recipe } from '../../jobs/contract.ts'
import { BASE, digest, NOW } from './house.ts'

export const COMPILER = 'http://compiler.test'
export const COMPILER_TOKEN = 'token-of-the-compiler-0123456789abcdef'
export const HOSTS = [
  'http://one.test',
  'http://two.test',
  'http://dead.test',
  'http://odd.test',
  'https://one.test:444',
]

const LEAK = 'internal-host-7'
const json = (value: unknown, status = 200) => Response.json(value, { status, headers: { server: LEAK } })
const usage = { prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 }

function generated(path: string, isChunk: boolean) {
  const isChat = path.endsWith('/chat/completions')
  const message = { role: 'assistant', content: 'ok' }
  const said = isChat ? { [isChunk ? 'delta' : 'message']: message } : { text: 'ok' }
  const object = isChat ? (isChunk ? 'chat.completion.chunk' : 'chat.completion') : 'text_completion'
  const choices = [{ index: 0, ...said, logprobs: null, finish_reason: 'stop' }]
  return { id: 'cmpl-1', object, created: 1, model: 'red', choices, usage }
}

const embedded = {
  object: 'list',
  model: 'red',
  data: [{ object: 'embedding', index: 0, embedding: [0.5, -1] }],
  usage: { prompt_tokens: 2, total_tokens: 2 },
}

function compile(path: string, body: string): Response {
  if (path.startsWith('/v1/artifacts/')) return json({ [LEAK]: 1 })
  const recipe =
    body === '' ? { target: 'merged', base: { 'config.json': digest('8') }, adapters: [] } : JSON.parse(body)
  const parsed = Recipe.safeParse(recipe)
  if (!parsed.success) return json({ error: { message: 'the recipe names no files', code: 'input_invalid' } }, 400)
  const state = { state: 'queued', target: parsed.data.target, progress: null, artifact: null, failure: null }
  const times = { queuedAt: NOW, startedAt: null, endedAt: null }
  return json({ id: digest('e'), ...state, ...times, recipe: parsed.data })
}

export async function answerForFuzz(url: string, init: RequestInit): Promise<Response> {
  const { origin, pathname } = new URL(url)
  const body = typeof init.body === 'string' ? init.body : ''
  if (origin === COMPILER) return compile(pathname, body)
  if (origin === 'http://dead.test') throw new TypeError(`connect ECONNREFUSED ${LEAK}`)
  if (origin === 'http://odd.test') return new Response(`<html>${LEAK}`, { status: body === '' ? 200 : 500 })
  if (pathname === '/readyz') return json({ ready: true, base: BASE, slots: 4, free: 4 })
  if (init.method !== 'POST') return pathname.endsWith('/jwks') ? json({ keys: [] }) : new Response('')
  if (pathname.endsWith('/embeddings')) return json(embedded)
  if (JSON.parse(body).stream !== true) return json(generated(pathname, false))
  const text = `data: ${JSON.stringify(generated(pathname, true))}\n\ndata: [DONE]\n\n`
  return new Response(text, { headers: { 'content-type': 'text/event-stream', server: LEAK } })
}
