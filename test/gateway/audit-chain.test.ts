// The chain of the audit trail: against an independent computation, under concurrency, and against every kind of change.

import { env } from 'cloudflare:workers'
import { createHash } from 'node:crypto'
import { beforeAll, describe, expect, it } from 'vitest'
import { type AuditRow, follow, GENESIS, START } from '../../gateway/audit-chain.ts'
import { createHouse, type House, seed } from './house.ts'

let house: House
beforeAll(async () => {
  house = await createHouse()
  await seed(house)
})

const allRows = async (): Promise<AuditRow[]> =>
  (await house.admin('GET', '/audit?after=0&limit=1000')).json.data as unknown as AuditRow[]

async function check(rows: readonly AuditRow[]): Promise<number | 'intact'> {
  let head = START
  for (const row of rows) {
    const step = await follow(head, row)
    if (!step.ok) return step.id
    head = step.head
  }
  return 'intact'
}

describe('the chain of the audit trail', () => {
  it('is what Node’s own SHA-256 makes of the rows, from the first on', async () => {
    const rows = await allRows()
    expect(rows.length).toBeGreaterThan(15)
    let previous = GENESIS
    for (const [at, row] of rows.entries()) {
      const { id, actor, action, resource, beforeDigest, afterDigest } = row
      const text = JSON.stringify([previous, id, row.at, actor, action, resource, beforeDigest, afterDigest])
      const hash = createHash('sha256').update(text).digest('hex')
      expect([row.id, row.previousHash, row.hash]).toEqual([at + 1, previous, hash])
      previous = hash
    }
    expect(await check(rows)).toBe('intact')
  })

  it('does not fork: of 20 changes at once each has a row, and the chain is intact', async () => {
    const before = (await allRows()).length
    const replies = await Promise.all(
      Array.from({ length: 20 }, (_, at) => house.admin('PUT', `/tenants/acme/roles/r${at}`, {})),
    )
    expect(replies.map(({ status }) => status)).toEqual(Array(20).fill(201))
    const rows = await allRows()
    expect(rows.length).toBe(before + 20)
    expect(new Set(rows.slice(before).map(({ resource }) => resource)).size).toBe(20)
    expect(await check(rows)).toBe('intact')
  }, 60_000)

  it('shows every change of a row, at that row or at the next', async () => {
    const rows = await allRows()
    const at = 7
    const row = rows[at]!
    const others = {
      at: row.at + 1,
      actor: 'x',
      action: 'x',
      resource: 'x',
      beforeDigest: 'x',
      afterDigest: 'x',
      hash: 'f'.repeat(64),
      previousHash: 'f'.repeat(64),
    }
    for (const [field, value] of Object.entries(others)) {
      expect([field, await check(rows.with(at, { ...row, [field]: value }))]).toEqual([field, row.id])
    }
    expect(await check(rows.toSpliced(at, 1))).toBe(row.id + 1)
    expect(await check([...rows.slice(0, at), rows[at + 1]!, row, ...rows.slice(at + 2)])).toBe(row.id + 1)
    expect(await check(rows.with(at, { ...row, hash: null }))).toBe(row.id)
    expect(await check(rows.toSpliced(at, 0, { ...row, action: 'put in between' }))).toBe(row.id)
  })

  it('refuses rows that do not continue it, whoever writes them', async () => {
    const insert = (columns: string, values: string) =>
      env.DB.prepare(
        `INSERT INTO audit (at, actor, action, resource${columns}) VALUES (1, 'x', 'x', 'x'${values})`,
      ).run()
    await expect(insert('', '')).rejects.toThrow('audit is a chain')
    const last = (await allRows()).at(-1)!
    const hash = 'e'.repeat(64)
    await expect(insert(', id, previous_hash, hash', `, ${last.id + 2}, '${last.hash}', '${hash}'`)).rejects.toThrow()
    await expect(insert(', id, previous_hash, hash', `, ${last.id + 1}, '${hash}', '${hash}'`)).rejects.toThrow()
  })

  it('covers rows of before it: its first row continues what their hashes would be', async () => {
    const old = (await allRows()).slice(0, 5).map((row) => ({ ...row, previousHash: null, hash: null }))
    let head = START
    for (const row of old) {
      const step = await follow(head, row)
      if (!step.ok) throw new Error(step.why)
      head = step.head
    }
    const sixth = (await allRows())[5]!
    expect(head.hash).toBe(sixth.previousHash)
    expect(await check([...old, sixth])).toBe('intact')
    expect(await check([...old.with(2, { ...old[2]!, actor: 'x' }), sixth])).toBe(sixth.id)
  })
})
