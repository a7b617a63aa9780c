// Requests that wait for a row: first in, first out within a tenant, and the tenants take turns.

export interface Waiting {
  readonly tenant: string
}

export class Queue<Item extends Waiting> {
  readonly #limit: number
  /** The tenant whose turn is next comes first. */
  readonly #byTenant = new Map<string, Item[]>()
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
    const line = this.#byTenant.get(item.tenant)
    if (line === undefined) this.#byTenant.set(item.tenant, [item])
    else line.push(item)
    this.#size += 1
  }

  /** In the order in which they should be served: the first of every tenant, then the second of every tenant, … */
  inTurn(): Item[] {
    const lines = [...this.#byTenant.values()]
    const longest = Math.max(0, ...lines.map((line) => line.length))
    return Array.from({ length: longest }, (_, depth) => lines.flatMap((line) => line.slice(depth, depth + 1))).flat()
  }

  /** Takes out one that is served now: its tenant goes to the end of the turn. */
  serve(item: Item): void {
    const line = this.#remove(item)
    this.#byTenant.delete(item.tenant)
    if (line.length > 0) this.#byTenant.set(item.tenant, line)
  }

  /** Takes out one that gave up: nobody's turn changes. */
  drop(item: Item): void {
    if (this.#remove(item).length === 0) this.#byTenant.delete(item.tenant)
  }

  #remove(item: Item): Item[] {
    const line = this.#byTenant.get(item.tenant) ?? []
    const at = line.indexOf(item)
    if (at < 0) throw new Error('sidepath bug: a request left the queue that was not in it')
    line.splice(at, 1)
    this.#size -= 1
    return line
  }
}
