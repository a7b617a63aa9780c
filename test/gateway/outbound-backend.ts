// A backend on the other side of the real `fetch`, for the few tests that go through the Worker's own entry.
import { Response as NodeResponse } from 'miniflare'

const READY_BASE = 'b'.repeat(64)

export function answerAsBackend(request: { url: string }): NodeResponse {
  const { pathname } = new URL(request.url)
  if (pathname === '/readyz') return NodeResponse.json({ ready: true, base: READY_BASE, slots: 4, free: 4 })
  const chunk = (text: string, completion_tokens: number) =>
    `data: ${JSON.stringify({ choices: [{ text }], usage: { prompt_tokens: 3, completion_tokens } })}\n\n`
  const body = `${chunk('one', 1)}${chunk('two', 2)}data: [DONE]\n\n`
  return new NodeResponse(body, {
    headers: { 'content-type': 'text/event-stream', 'x-internal-host': 'gpu-7', 'set-cookie': 'a=b' },
  })
}
