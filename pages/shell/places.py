"""The pages there are, and which of the choices that cross pages each takes from the sidebar."""

PLACES = {  # section → (page, title, icon, choices)
    "Look": [
        ("home", "Home", "home", ()),
        ("results", "Results", "leaderboard", ("data", "run", "machine")),
        ("explore", "Explore", "scatter_plot", ("data", "run", "machine")),
        ("data", "Data", "database", ("data", "recorded machine")),
    ],
    "Make": [
        ("train", "Train", "model_training", ("data",)),
        ("screening", "Screening", "hearing", ("data",)),
        ("score", "Score a clip", "mic", ("data", "run", "machine")),
        ("weights", "Weights", "download", ()),
    ],
    "Deliver": [
        ("fusion", "Fusion", "join", ("data",)),
        ("export", "Export", "package_2", ()),
    ],
}
CHOICES = {name: choices for section in PLACES.values() for name, _, _, choices in section}
