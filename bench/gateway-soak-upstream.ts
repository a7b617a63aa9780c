// The upstream of bench/gateway-soak: answers as its caller's message says, and writes down what it was asked and what it
// gave before the answer's last byte leaves. The log outlives the process, however that ends.
import { openSync, writeSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'

const { PORT, LOG, BASE } = z.object({ PORT: z.coerce.number(), LOG: z.string(), BASE: z.string() }).parse(process.env)
const SLOW_MS = 40
const CUT_AFTER_EVENTS = 3
const file = openSync(LOG, 'a')
const note = (...words: (string | number)[]) => void writeSync(file, `${words.join(' ')}\n`)

const Body = z.object({
  stream: z.boolean().nullish(),
  /** `<kind> <prompt tokens> <completion tokens>` */
  messages: z.tuple([z.object({ content: z.string().regex(/^(well|slow|cut|fail) \d+ \d+$/) })]),
})

const usageOf = (prompt: number, completion: number) => ({
  prompt_tokens: prompt,
  completion_tokens: completion,
  total_tokens: prompt + completion,
})
const choice = (more: object) => ({ index: 0, finish_reason: null, ...more })

async function stream(id: string, kind: string, prompt: number, completion: number, response: ServerResponse) {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  for (let at = 1; at <= completion; at++) {
    if (response.destroyed) return note('gone', id, prompt, at - 1)
    if (kind === 'cut' && at > CUT_AFTER_EVENTS) {
      note('cut', id, prompt, at - 1)
      response.destroy()
      return
    }
    const isLast = at === completion
    if (isLast) note('whole', id, prompt, completion)
    const event = { object: 'chat.completion.chunk', choices: [choice({ delta: { content: 'word ' } })] }
    response.write(`data: ${JSON.stringify({ ...event, usage: usageOf(prompt, at) })}\n\n`)
    if (isLast) response.end('data: [DONE]\n\n')
    else await (kind === 'slow' ? delay(SLOW_MS) : new Promise(setImmediate))
  }
}

const server = createServer((request, response) => {
  if (request.url === '/readyz') {
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ ready: true, base: BASE, slots: 8, free: 4 }))
    return
  }
  const id = String(request.headers['x-request-id'])
  const chunks: Buffer[] = []
  request.on('data', (chunk: Buffer) => chunks.push(chunk))
  request.on('end', () => {
    note('asked', id)
    const body = Body.parse(JSON.parse(Buffer.concat(chunks).toString()))
    const [kind = '', prompt, completion] = body.messages[0].content.split(' ')
    if (kind === 'fail') {
      note('failed', id)
      response.writeHead(500).end()
      return
    }
    if (body.stream) return void stream(id, kind, Number(prompt), Number(completion), response)
    note('whole', id, Number(prompt), Number(completion))
    const message = { role: 'assistant', content: 'word '.repeat(Number(completion)) }
    const text = JSON.stringify({
      object: 'chat.completion',
      choices: [choice({ message })],
      usage: usageOf(Number(prompt), Number(completion)),
    })
    response.writeHead(200, { 'content-type': 'application/json' }).end(text)
  })
})
server.keepAliveTimeout = 0
server.listen(PORT, '127.0.0.1', () => console.log('ready'))
