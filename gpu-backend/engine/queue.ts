// Requests that wait for a row: first in, first out within a tenant, and between tenants the one that has been given
// the fewest tokens goes first (a virtual token counter), so that long requests do not count as much as short ones.

export interface Waiting {
  readonly tenant: string
  /** Tokens that it takes from the others when it is served. */
  readonly cost: number
}

/** What a tenant was given; it stays good for corrections, and they change nothing once it is forgotten. */
export interface Account {
  tokens: number
}

export class Queue<Item extends Waiting> {
  readonly #limit: number
  /** The tenant that began to wait first comes first. */
  readonly #byTenant = new Map<string, Item[]>()
  /** Tokens that each tenant was given since it last had to wait for nobody. */
  readonly #given = new Map<string, Account>()
  #size = 0

  constructor(limit: number) {
    this.#limit = limit
  }

  get size(): number {
    return this.#size
  }

  get full(): boolean {
    return this.#size >= this.#limit
  }

  add(item: Item): void {
    const { tenant } = item
    const line = this.#byTenant.get(tenant)
    this.#size += 1
    if (line !== undefined) {
      line.push(item)
      return
    }
    // Who comes, or comes back, starts with those who wait: nobody saves up turns while away.
    const least = this.#least()
    const own = this.#accountOf(tenant)
    if (Number.isFinite(least)) own.tokens = Math.max(own.tokens, least)
    this.#byTenant.set(tenant, [item])
  }

  /** In no order that means anything. */
  items(): Item[] {
    return [...this.#byTenant.values()].flat()
  }

  /** In the order in which they should be served. */
  inTurn(): Item[] {
    const lines = [...this.#byTenant].map(([tenant, line]) => ({
      line,
      next: 0,
      given: this.#accountOf(tenant).tokens,
    }))
    const items: Item[] = []
    while (items.length < this.#size) {
      let first: (typeof lines)[number] | undefined
      for (const candidate of lines) {
        if (candidate.next === candidate.line.length) continue
        if (first === undefined || candidate.given < first.given) first = candidate
      }
      const item = first!.line[first!.next]!
      first!.next += 1
      first!.given += item.cost
      items.push(item)
    }
    return items
  }

  /** Takes out one that is served now. What it does not take after all is taken off the account. */
  serve(item: Item): Account {
    this.#remove(item)
    const account = this.#accountOf(item.tenant)
    account.tokens += item.cost
    this.#settle()
    return account
  }

  /** Takes out one that gave up: nobody's turn changes. */
  drop(item: Item): void {
    this.#remove(item)
    this.#settle()
  }

  #remove(item: Item): void {
    const line = this.#byTenant.get(item.tenant) ?? []
    const at = line.indexOf(item)
    if (at < 0) throw new Error('sidepath bug: a request left the queue that was not in it')
    line.splice(at, 1)
    this.#size -= 1
    if (line.length === 0) this.#byTenant.delete(item.tenant)
  }

  /** Forgets who would start level with the others anyway, so that the table is as short as the queue. */
  #settle(): void {
    if (this.#size === 0) {
      this.#given.clear()
      return
    }
    const least = this.#least()
    for (const [tenant, { tokens }] of this.#given) {
      if (!this.#byTenant.has(tenant) && tokens <= least) this.#given.delete(tenant)
    }
  }

  /** Of those who wait; infinite where nobody does. */
  #least(): number {
    return Math.min(...[...this.#byTenant.keys()].map((tenant) => this.#accountOf(tenant).tokens))
  }

  #accountOf(tenant: string): Account {
    let account = this.#given.get(tenant)
    if (account === undefined) {
      account = { tokens: 0 }
      this.#given.set(tenant, account)
    }
    return account
  }
}
