"""Raw files of datasets: fetching them, and opening what strangers packed."""
