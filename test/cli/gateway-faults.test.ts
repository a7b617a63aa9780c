// The gateway on Node where its machine fails it: a file that another process has locked, a disk that is full, callers who do
// not read. Nothing is authorised that could not be written down, and nothing stays broken.
import Database from 'libsql'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { answerWhole, type Host, startHost } from './gateway-host.ts'

const codeOf = async (response: Response) => [
  response.status,
  ((await response.json()) as { error?: { code: string } }).error?.code,
]

describe('a database file', () => {
  let host: Host
  beforeEach(async () => {
    host = await startHost(answerWhole)
  })
  afterEach(() => host.close())

  it('that another process keeps locked is a 503, and no backend is asked; afterwards all is well', async () => {
    expect((await host.ask()).status).toBe(200)
    const other = new Database(host.file)
    other.exec('BEGIN IMMEDIATE')
    try {
      const [asked, admin] = await Promise.all([
        host.ask().then(codeOf),
        fetch(`${host.url}/admin/tenants/acme/roles/late`, {
          method: 'PUT',
          headers: { authorization: `Bearer ${host.adminKey}`, 'content-type': 'application/json' },
          body: '{}',
        }).then(codeOf),
      ])
      expect([asked, admin]).toEqual([
        [503, 'database_unavailable'],
        [503, 'database_unavailable'],
      ])
      expect(host.asked()).toBe(1)
    } finally {
      other.exec('ROLLBACK')
      other.close()
    }
    expect((await host.ask()).status).toBe(200)
    // What was refused is on record as well, as what cost nothing.
    const text =
      "SELECT sum(status <> 'failed') AS ran, sum(status = 'failed' AND charge = 'nothing') AS refused FROM usage"
    expect(await host.db.prepare(text).first()).toEqual({ ran: 2, refused: 1 })
  })

  it('on a full disk is a 503 for what must be written, while what is there is read; with room again all is well', async () => {
    // SQLite's own bound on a file: it fails as a full disk does, by SQLITE_FULL.
    const pragma = async (text: string) => (await host.db.prepare(`PRAGMA ${text}`).first()) as Record<string, number>
    const { page_count: pages = 0 } = await pragma('page_count')
    await pragma(`max_page_count = ${pages}`)
    const seen: (readonly unknown[])[] = []
    while (seen.at(-1)?.[0] !== 503) {
      seen.push(await codeOf(await host.ask()))
      expect(seen.length).toBeLessThan(200)
    }
    const before = host.asked()
    expect(await codeOf(await host.ask())).toEqual([503, 'database_unavailable'])
    expect(host.asked()).toBe(before)
    const models = await fetch(`${host.url}/v1/models`, { headers: { authorization: `Bearer ${host.key}` } })
    expect(models.status).toBe(200)
    await pragma('max_page_count = 1073741823')
    expect((await host.ask()).status).toBe(200)
    const open = await host.db.prepare("SELECT count(*) AS n FROM usage WHERE status = 'open'").first()
    // Of requests that were admitted with the last page, the settling found none: those are open, and were logged.
    expect((open as { n: number }).n).toBeLessThanOrEqual(1)
  }, 60_000)
})

describe('callers who do not read', () => {
  it('make their backends wait, and hold a bounded part of what they were sent', async () => {
    const READERS = 6
    const STREAM_BYTES = 64 << 20
    let sent = 0
    const usage = { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 }
    const event = Buffer.from(
      `data: ${JSON.stringify({ choices: [{ index: 0, text: 'x'.repeat(16_000) }], usage })}\n\n`,
    )
    const host = await startHost((_, response) => {
      response.setHeader('content-type', 'text/event-stream')
      let written = 0
      const write = () => {
        while (written < STREAM_BYTES && !response.destroyed) {
          written += event.length
          sent += event.length
          if (!response.write(event)) return void response.once('drain', write)
        }
        response.end('data: [DONE]\n\n')
      }
      write()
    })
    try {
      const leaving = new AbortController()
      const before = process.memoryUsage.rss()
      const answers = await Promise.all(
        Array.from({ length: READERS }, () => host.ask({ stream: true }, leaving.signal)),
      )
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]))
      // Until nothing moves any more.
      for (let last = -1; last !== sent; ) {
        last = sent
        await new Promise((resolve) => setTimeout(resolve, 300))
      }
      // Two connections of Linux hold 10 MB each at most, the gateway some hundred kB: not the 64 MB that were offered.
      expect(sent / READERS).toBeLessThan(24 << 20)
      // Backend, gateway and caller are this process; what is in sockets is the system's.
      expect(process.memoryUsage.rss() - before).toBeLessThan((READERS * STREAM_BYTES) / 4)
      leaving.abort()
      const aborted = () =>
        host.db.prepare("SELECT count(*) AS n FROM usage WHERE status = 'aborted'").first() as Promise<{ n: number }>
      await expect.poll(async () => (await aborted()).n, { timeout: 20_000 }).toBe(READERS)
    } finally {
      await host.close()
    }
  }, 60_000)
})
