// Search of pages that are opened as files: browsers start no worker there, so the script of the
// worker runs in a hidden frame, which exchanges messages as a worker does.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.title = "search"
      document.body.appendChild(this.frame)
      const inside = this.frame.contentDocument
      this.ready = new Promise((resolve) => {
        this.frame.contentWindow.postMessage = (data) => this.hear(data)
        this.frame.contentWindow.importScripts = (...urls) => urls.reduce(
          (before, next) => before.then(() => this.load(inside, next)), Promise.resolve())
        this.load(inside, url).then(resolve)
      })
    }

    load(inside, url) {
      return new Promise((resolve, reject) => {
        const script = inside.createElement("script")
        script.src = String(url)
        script.onload = resolve
        script.onerror = reject
        inside.body.appendChild(script)
      })
    }

    hear(data) {
      const event = new MessageEvent("message", { data })
      this.dispatchEvent(event)
      if (this.onmessage) this.onmessage(event)
    }

    postMessage(data) {
      this.ready.then(() => {
        const frame = this.frame.contentWindow
        frame.dispatchEvent(new frame.MessageEvent("message", { data }))
      })
    }

    terminate() {
      this.frame.remove()
    }
  }
}
