// The fixed upstream of bench/gateway: one answer of about 600 bytes, or the same words as 20 events. It decides nothing.
import { createServer } from 'node:http'

const usage = { prompt_tokens: 12, completion_tokens: 20, total_tokens: 32 }
const head = { id: 'chatcmpl-000000000000', created: 1_790_000_000, model: 'fixed' }
const whole = Buffer.from(
  JSON.stringify({
    ...head,
    object: 'chat.completion',
    choices: [{ index: 0, message: { role: 'assistant', content: 'word '.repeat(70).trim() }, finish_reason: 'stop' }],
    usage,
  }),
)
const EVENTS = 20
const events = Array.from({ length: EVENTS }, (_, at) =>
  Buffer.from(
    `data: ${JSON.stringify({
      ...head,
      object: 'chat.completion.chunk',
      choices: [{ index: 0, delta: { content: 'word ' }, finish_reason: at === EVENTS - 1 ? 'stop' : null }],
      usage: { ...usage, completion_tokens: at + 1 },
    })}\n\n${at === EVENTS - 1 ? 'data: [DONE]\n\n' : ''}`,
  ),
)

const server = createServer((request, response) => {
  const chunks: Buffer[] = []
  request.on('data', (chunk: Buffer) => chunks.push(chunk))
  request.on('end', () => {
    if (!Buffer.concat(chunks).includes('"stream":true')) {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': whole.length })
      response.end(whole)
      return
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    let at = 0
    // One event a turn, as a model gives them, without the pauses of one.
    const next = () => {
      const event = events[at++]
      if (event === undefined) response.end()
      else if (!response.destroyed) {
        response.write(event)
        setImmediate(next)
      }
    }
    next()
  })
})
server.keepAliveTimeout = 0
server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log('ready'))
