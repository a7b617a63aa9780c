// The whole system as a user meets it: `sidepath up`, and the official OpenAI client with the demo's keys.
import { readFileSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import OpenAI, { NotFoundError } from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { freePort, type Running, startUp, temporaryFolder } from './running.ts'

type Task = 'triage' | 'dates' | 'clauses'
const heldout: ({ prompt: string } & Record<Task, string>)[] = readFileSync(
  join(import.meta.dirname, '..', '..', 'examples', 'demo', 'heldout.jsonl'),
  'utf8',
)
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line))

let folder: Awaited<ReturnType<typeof temporaryFolder>>
let ports: { port: number; backendPort: number }
let running: Running

beforeAll(async () => {
  folder = await temporaryFolder()
  ports = { port: await freePort(), backendPort: await freePort() }
  running = await startUp({ dataDir: join(folder.path, 'data'), ...ports })
})

afterAll(async () => {
  await running?.end('SIGTERM')
  await folder?.remove()
})

const tenant = (name: string) => {
  const found = running.demo.tenants.find((one) => one.name === name)
  if (!found) throw new Error(`no demo tenant ${name}`)
  return found
}
const client = (name: string) =>
  new OpenAI({ baseURL: `${running.demo.gatewayUrl}/v1`, apiKey: tenant(name).key, maxRetries: 0 })
const ask = async (name: string, model: string, prompt: string) => {
  const answer = await client(name).chat.completions.create({
    model,
    messages: [{ role: 'user', content: prompt }],
    temperature: 0,
    max_tokens: 48,
  })
  return answer.choices[0]?.message.content?.trim()
}

describe('the demo', () => {
  it('keeps demo.json from other users of the machine', async () => {
    const { mode } = await stat(join(running.dataDir, 'demo.json'))
    expect(mode & 0o777).toBe(0o600)
  })

  it('lists to each key exactly its models', async () => {
    for (const { name, models } of running.demo.tenants) {
      const listed = (await client(name).models.list()).data.map(({ id }) => id)
      expect(listed.sort(), name).toEqual([...models].sort())
    }
  })

  it("answers the same prompt under two keys with each task's right answer", async () => {
    let right = 0
    const sample = heldout.slice(0, 10)
    for (const { prompt, triage, dates } of sample) {
      const [one, other] = await Promise.all([ask('acme', 'triage', prompt), ask('birch', 'dates', prompt)])
      right += Number(one === triage) + Number(other === dates)
    }
    expect(right).toBeGreaterThanOrEqual(2 * sample.length - 1)
  })

  it('runs a mix of adapters for who may use each of them, and hides it from who may not', async () => {
    const { prompt, dates } = heldout[0]!
    expect(await ask('lab', 'triage*0.000001 + dates', prompt)).toBe(dates)
    const mixed = await client('lab').completions.create({ model: 'triage * 0.5 + dates*0.5', prompt, max_tokens: 3 })
    expect(mixed.model).toBe('triage*0.5+dates*0.5')
    const refused = async (model: string) => {
      const error = await ask('birch', model, prompt).catch((thrown: unknown) => thrown)
      return error instanceof NotFoundError ? error.error : error
    }
    expect(await refused('triage*0.5+dates*0.5')).toEqual(await refused('nothing'))
    expect(await refused('nothing')).toMatchObject({ code: 'model_not_found' })
  })

  it('answers with the public name of the model', async () => {
    const answer = await client('acme').completions.create({
      model: 'triage',
      prompt: 'In the beginning',
      max_tokens: 3,
    })
    expect(answer.model).toBe('triage')
    expect(answer.usage?.completion_tokens).toBeLessThanOrEqual(3)
  })

  it('says the same bytes for a forbidden and for an unknown model', async () => {
    const body = async (model: string) => {
      const response = await fetch(`${running.demo.gatewayUrl}/v1/chat/completions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${tenant('birch').key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ model, messages: [{ role: 'user', content: 'x' }] }),
      })
      return { status: response.status, text: await response.text() }
    }
    const forbidden = await body('triage')
    expect(forbidden.status).toBe(404)
    expect(await body('no-such-model')).toEqual(forbidden)
    const refusal = client('birch').chat.completions.create({
      model: 'triage',
      messages: [{ role: 'user', content: 'x' }],
    })
    await expect(refusal).rejects.toBeInstanceOf(NotFoundError)
  })

  it('streams the same text that it answers at once, with the usage at the end', async () => {
    const prompt = heldout[0]?.prompt ?? ''
    const whole = await ask('acme', 'triage', prompt)
    const stream = await client('acme').chat.completions.create({
      model: 'triage',
      messages: [{ role: 'user', content: prompt }],
      temperature: 0,
      max_tokens: 48,
      stream: true,
      stream_options: { include_usage: true },
    })
    let text = ''
    let tokens = 0
    for await (const chunk of stream) {
      expect(chunk.model).toBe('triage')
      text += chunk.choices[0]?.delta.content ?? ''
      tokens = chunk.usage?.completion_tokens ?? tokens
    }
    expect(text.trim()).toBe(whole)
    expect(tokens).toBeGreaterThan(0)
  })

  it('stops the decode when the client leaves a stream', async () => {
    const stream = await client('lab').completions.create({
      model: 'base',
      prompt: 'And it came to pass',
      max_tokens: 400,
      temperature: 1,
      seed: 7,
      stream: true,
    })
    let seen = 0
    for await (const _ of stream) {
      seen += 1
      if (seen === 5) break
    }
    await expect.poll(async () => (await lastUsage('lab'))?.status, { timeout: 5000 }).toBe('aborted')
    const tokens = (await lastUsage('lab'))?.completionTokens ?? Number.NaN
    // What the client read, what was on its way, and one step: far from the 400 that it asked for.
    expect(tokens).toBeGreaterThanOrEqual(5)
    expect(tokens).toBeLessThan(100)
  })

  it('keeps a caller in one arm of an experiment', async () => {
    const prompt = heldout[1]?.prompt ?? ''
    const first = await ask('lab', 'assistant', prompt)
    for (let times = 0; times < 3; times++) expect(await ask('lab', 'assistant', prompt)).toBe(first)
  })
})

describe('the life of the process', () => {
  it('loses no key, usage row or artifact when it is killed with -9 and started again', async () => {
    const before = { demo: running.demo, usage: (await usageOf('acme')).map(({ id }) => id) }
    expect(before.usage.length).toBeGreaterThan(0)
    expect(await running.end('SIGKILL')).toBe('SIGKILL')
    running = await startUp({ dataDir: running.dataDir, ...ports })
    expect(running.demo).toEqual(before.demo)
    expect(running.output()).not.toContain('compiled')
    expect((await usageOf('acme')).map(({ id }) => id)).toEqual(expect.arrayContaining(before.usage))
    for (const { name, models } of running.demo.tenants) {
      const listed = (await client(name).models.list()).data.map(({ id }) => id)
      expect(listed.sort(), name).toEqual([...models].sort())
    }
  })

  it('ends cleanly on Ctrl-C and gives its ports back', async () => {
    expect(await running.end('SIGINT')).toBe(0)
    for (const port of [ports.port, ports.backendPort]) {
      await expect(fetch(`http://127.0.0.1:${port}/healthz`)).rejects.toThrow()
    }
    running = await startUp({ dataDir: running.dataDir, ...ports })
  })

  it('prints no secret', () => {
    const { capabilitySecret } = JSON.parse(readFileSync(join(running.dataDir, 'secrets.json'), 'utf8'))
    expect(running.output()).not.toContain(capabilitySecret)
    expect(running.output()).not.toContain(running.demo.adminKey)
  })
})

interface Usage {
  id: string
  status: string
  completionTokens: number
}

async function usageOf(tenantName: string): Promise<Usage[]> {
  const response = await fetch(`${running.demo.gatewayUrl}/admin/tenants/${tenantName}/usage`, {
    headers: { authorization: `Bearer ${running.demo.adminKey}` },
  })
  expect(response.status).toBe(200)
  return ((await response.json()) as { data: Usage[] }).data
}

/** The newest usage row of the tenant. */
async function lastUsage(tenantName: string): Promise<Usage | undefined> {
  return (await usageOf(tenantName))[0]
}
